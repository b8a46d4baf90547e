"""Every shipped config loads, passes the check and builds; its header tells what a user needs to know."""
from pathlib import Path

import pytest

from passl.config import check, load_config
from passl.data import build_loader
from passl.engine.build import build_method
from tests.engine.runs import write_images

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "tasks" / "ssl").glob("*/configs/*.yaml"))
PRETRAINING = [path for path in CONFIGS if "_pt_" in path.name]


def name(path):
    return path.stem


def load(path, *overrides):
    return check(load_config(str(path), list(overrides)))


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_loads_and_has_a_header(path):
    load(path)
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for part in ("Reproduces:", "Command", "Hardware:", "Expected:"):
        assert any(part in line for line in header), f"{path.name}: the header lacks '{part}'"
    assert path.name in path.read_text(), "the command in the header names another file"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 130, size=8)


@pytest.mark.parametrize("path", [pytest.param(path, marks=[pytest.mark.slow] if "w4" in path.name or "w5" in path.name
                                               else []) for path in PRETRAINING], ids=name)
def test_pretraining_builds(path, images):
    small = ["Model.queue_length=0"] if "swav" in path.name else ["Model.backbone.nmb_prototypes=[10,10,10]"]
    config = load(path, f"DataLoader.Train.dataset.root={images}", "DataLoader.Train.sampler.batch_size=130", *small)
    method = build_method(config, build_loader(config.DataLoader.Train, seed=0))
    assert method.model.prototype_parameters()


@pytest.mark.parametrize("file, crops, scales, level", [
    ("deepcluster_v2/configs/deepclusterv2_resnet50_224_pt_in1k_800ep_8n64c_dp_fp32", (224, 2, 96, 6), 0.14, "O0"),
    ("deepcluster_v2/configs/deepclusterv2_resnet50_160_pt_in1k_400ep_2x160_4x96_8n64c_dp_fp32", (160, 2, 96, 4), 0.08,
     "O0"),
    ("deepcluster_v2/configs/deepclusterv2_resnet50_224_pt_in1k_400ep_2x224_8n64c_dp_fp32", (224, 2), 0.08, "O0"),
    ("sela_v2/configs/selav2_resnet50_160_pt_in1k_400ep_2x160_4x96_8n64c_dp_fp16o1", (160, 2, 96, 4), 0.08, "O1"),
    ("sela_v2/configs/selav2_resnet50_224_pt_in1k_400ep_2x224_8n64c_dp_fp16o1", (224, 2), 0.08, "O1"),
])
def test_offline_recipes_are_swavs_with_three_heads(file, crops, scales, level):
    config = load(ROOT / "tasks" / "ssl" / f"{file}.yaml")
    data = config.DataLoader.Train.dataset
    assert tuple(n for pair in zip(data.size_crops, data.num_crops) for n in pair) == crops
    assert data.min_scale_crops[0] == scales and config.FP16.level == level
    assert [*zip(data.min_scale_crops, data.max_scale_crops)][1:] == [(0.05, 0.14)] * (len(data.size_crops) - 1)
    assert config.Optimizer.weight_decay == 1e-6 and config.Optimizer.momentum == 0.9
    assert (config.Model.temperature, list(config.Model.crops_for_assign)) == (0.1, [0, 1])
    assert list(config.Model.backbone.nmb_prototypes) == [3000] * 3
    lr = config.Optimizer.lr
    assert (lr.learning_rate, lr.eta_min, lr.warmup_epoch, lr.warmup_start_lr) == (4.8, 0.0048, 10, 0.3)
    assert config.DataLoader.Train.sampler.batch_size * 64 == 4096
    if config.Model.name.startswith("deepclusterv2"):
        assert config.Model.kmeans_iterations == 10
        return
    assert (config.Model.epsilon, config.Model.sinkhorn_tolerance, config.Model.sinkhorn_tolerance_mode,
            config.Model.sinkhorn_max_iterations, config.Model.assignment, config.Model.freeze_prototypes_niters
            ) == (0.05, 1e-3, "mean", 2000, "hard", 313)


@pytest.mark.parametrize("path", [path for path in PRETRAINING if "unmix" in path.name], ids=name)
def test_unmix_recipes_are_swavs_with_mixtures(path):
    config = load(path)
    swav = path.parents[2] / "swav" / "configs" / path.name.replace("unmix_", "")
    expected = load(swav)
    cifar = "cifar" in path.name
    assert (config.Model.unmix_prob, config.Model.unmix_compat) == (0.5 if cifar else 0.0, "paper")
    for part in ("DataLoader", "Optimizer", "DistributedStrategy", "FP16"):
        assert config[part].plain() == expected[part].plain(), part
    model = {key: value for key, value in config.Model.plain().items() if not key.startswith("unmix")}
    assert {**model, "name": ""} == {**expected.Model.plain(), "name": "", "backbone": model["backbone"]}


@pytest.mark.parametrize("file, expected", [
    ("swav_resnet50_224_pt_in1k_100ep_8n64c_dp_fp16o1", (4.8, 0.0048, 10, 0, 313, 64, 4096)),
    ("swav_resnet50_224_pt_in1k_200ep_bs256_1n4c_dp_fp16o1", (0.6, 0.0006, 0, 3840, 5005, 4, 256)),
    ("swav_resnet50_224_pt_in1k_1n8c_dp_fp16o1", (0.6, 0.0006, 0, 3840, 5005, 8, 256)),
    ("swav_resnet50_224_pt_in1k_4n32c_dp_fp16o1", (4.8, 0.0048, 10, 0, 313, 32, 4096)),
    ("swav_resnet50w4_224_pt_in1k_400ep_8n64c_dp_fp16o1", (4.8, 0.0048, 10, 2560, 313, 64, 2560)),
    ("swav_resnet50w5_224_pt_in1k_400ep_16n128c_dp_fp16o1", (4.8, 0.0, 10, 1536, 313, 128, 1536)),
])
def test_recipe_values(file, expected):
    config = load(ROOT / "tasks" / "ssl" / "swav" / "configs" / f"{file}.yaml")
    rate, final, warmup, queue, frozen, cards, batch = expected
    assert (config.Optimizer.lr.learning_rate, config.Optimizer.lr.eta_min) == (rate, final)
    assert (config.Optimizer.lr.warmup_epoch, config.Model.queue_length) == (warmup, queue)
    assert config.Model.freeze_prototypes_niters == frozen
    assert config.DataLoader.Train.sampler.batch_size * cards == batch
