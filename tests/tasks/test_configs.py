"""Every shipped config loads, passes the check and builds; its header tells what a user needs to know."""
import re
from pathlib import Path

import pytest

from passl.config import check, load_config
from passl.data import build_loader
from passl.engine.components import build_method
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
    hardware = next(line for line in header if "Hardware:" in line)
    assert re.search(r"\b(min|h|hours|minutes?|days|hour)\b|time (was )?not published", hardware), "no time is given"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 130, size=8)


@pytest.mark.parametrize("path", [pytest.param(path, marks=[pytest.mark.slow] if "w4" in path.name or "w5" in path.name
                                               else []) for path in PRETRAINING], ids=name)
def test_pretraining_builds(path, images):
    small = ["Model.queue_length=0"] if "swav" in path.name else ["Model.backbone.nmb_prototypes=[10,10,10]"]
    config = load(path, f"DataLoader.Train.dataset.root={images}", "DataLoader.Train.sampler.batch_size=130", *small)
    method = build_method(config, build_loader(config.DataLoader.Train, seed=0))
    assert method.trainable_parameters()


def test_sela_recipe_values():
    """sela.md 1.2 to 1.6, 8.1."""
    config = load(ROOT / "tasks/ssl/sela/configs/sela_resnet50_224_pt_in1k_400ep_bs256_1n4c_dp_fp32.yaml")
    model, optimizer, data = config.Model, config.Optimizer, config.DataLoader.Train.dataset
    assert list(model.backbone.nmb_prototypes) == [3000] * 10
    assert (model.temperature, model.exponent, model.label_optimizations, model.label_schedule_power) == (1, 25, 100, 2)
    assert (model.sinkhorn_tolerance, model.sinkhorn_tolerance_mode) == (0.1, "sum")
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("Momentum", 0.9, 1e-5)
    assert (optimizer.lr.learning_rate, optimizer.lr.milestones, optimizer.lr.gamma) == (0.05, [150, 300, 350], 0.1)
    assert optimizer.lr.decay_unit == "epoch" and not optimizer.get("param_groups")
    assert (config.Global.epochs, config.DataLoader.Train.sampler.batch_size * 4) == (400, 256)
    assert (data.size_crops, data.num_crops, data.min_scale_crops, data.max_scale_crops) == ([224], [1], [0.08], [1.0])
    assert (data.brightness, data.contrast, data.saturation, data.hue) == (0.4, 0.4, 0.4, 0.4)
    assert (data.jitter_probability, data.grayscale_probability, data.blur_probability) == (1.0, 0.2, 0.0)


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


MULTI = ([224, 96], [2, 6], [0.14, 0.05], [1.0, 0.14])
TWO = ([224], [2], [0.08], [1.0])
SMALL_GROUP_OF_FOUR = ([224, 96], [2, 4], [0.14, 0.05], [1.0, 0.14])
GROUP_OF_EIGHT = {"group": 8}

# The published recipes, number by number: epochs, cards, images a card; crops; base and final rate, warm-up epochs and
# start; queue and its first epoch; frozen steps; batch norm; hidden units of the head.
RECIPES = {
    "swav_resnet50_224_pt_in1k_100ep_8n64c_dp_fp16o1":
        (100, 64, 64, MULTI, (4.8, 0.0048, 10, 0.3), (0, 15), 313, GROUP_OF_EIGHT, 2048),
    "swav_resnet50_224_pt_in1k_200ep_8n64c_dp_fp16o1":
        (200, 64, 64, MULTI, (4.8, 0.0048, 10, 0.3), (0, 15), 313, GROUP_OF_EIGHT, 2048),
    "swav_resnet50_224_pt_in1k_400ep_8n64c_dp_fp16o1":
        (400, 64, 64, MULTI, (4.8, 0.0048, 10, 0.3), (0, 15), 313, GROUP_OF_EIGHT, 2048),
    "swav_resnet50_224_pt_in1k_800ep_8n64c_dp_fp16o1":
        (800, 64, 64, MULTI, (4.8, 0.0048, 10, 0.3), (0, 15), 313, GROUP_OF_EIGHT, 2048),
    "swav_resnet50_224_pt_in1k_400ep_2x224_8n64c_dp_fp16o1":
        (400, 64, 64, TWO, (4.8, 0.0048, 10, 0.3), (0, 15), 313, GROUP_OF_EIGHT, 2048),
    "swav_resnet50_160_pt_in1k_400ep_2x160_4x96_8n64c_dp_fp16o1":
        (400, 64, 64, ([160, 96], [2, 4], [0.08, 0.05], [1.0, 0.14]), (4.8, 0.0048, 10, 0.3), (0, 15), 313,
         GROUP_OF_EIGHT, 2048),
    "swav_resnet50_224_pt_in1k_200ep_bs256_1n4c_dp_fp16o1":
        (200, 4, 64, MULTI, (0.6, 0.0006, 0, 0.0), (3840, 15), 5005, "global", 2048),
    "swav_resnet50_224_pt_in1k_400ep_bs256_1n4c_dp_fp16o1":
        (400, 4, 64, MULTI, (0.6, 0.0006, 0, 0.0), (3840, 15), 5005, "global", 2048),
    "swav_resnet50_224_pt_in1k_400ep_bs256_1n8c_dp_fp16o1":
        (400, 8, 32, MULTI, (0.6, 0.0006, 0, 0.0), (3840, 15), 5005, "global", 2048),
    "swav_resnet50_224_pt_in1k_1n8c_dp_fp16o1":
        (400, 8, 32, MULTI, (0.6, 0.0006, 0, 0.0), (3840, 15), 5005, "global", 2048),
    "swav_resnet50_224_pt_in1k_4n32c_dp_fp16o1":
        (800, 32, 128, MULTI, (4.8, 0.0048, 10, 0.3), (0, 15), 313, "global", 2048),
    "swav_resnet50w2_224_pt_in1k_400ep_16n128c_dp_fp16o1":
        (400, 128, 32, SMALL_GROUP_OF_FOUR, (4.8, 0.0048, 10, 0.3), (0, 15), 313, GROUP_OF_EIGHT, 8192),
    "swav_resnet50w4_224_pt_in1k_400ep_8n64c_dp_fp16o1":
        (400, 64, 40, ([224, 96], [2, 4], [0.08, 0.08], [1.0, 0.14]), (4.8, 0.0048, 10, 0.3), (2560, 0), 313,
         GROUP_OF_EIGHT, 8192),
    "swav_resnet50w5_224_pt_in1k_400ep_16n128c_dp_fp16o1":
        (400, 128, 12, SMALL_GROUP_OF_FOUR, (4.8, 0.0, 10, 0.1875), (1536, 0), 313, GROUP_OF_EIGHT, 10240),
}


@pytest.mark.parametrize("file", RECIPES)
def test_published_recipe(file):
    config = load(ROOT / "tasks" / "ssl" / "swav" / "configs" / f"{file}.yaml")
    epochs, cards, batch_size, crops, rates, queue, frozen, batch_norm, hidden = RECIPES[file]
    data, model, lr = config.DataLoader.Train.dataset, config.Model, config.Optimizer.lr
    assert (config.Global.epochs, config.DataLoader.Train.sampler.batch_size) == (epochs, batch_size)
    assert f"n{cards}c_" in file
    assert (data.size_crops, data.num_crops, data.min_scale_crops, data.max_scale_crops) == crops
    assert (lr.learning_rate, lr.eta_min, lr.warmup_epoch, lr.warmup_start_lr or 0.0) == rates
    assert (model.queue_length, model.epoch_queue_starts) == queue
    assert (model.freeze_prototypes_niters, model.backbone.hidden_mlp) == (frozen, hidden)
    assert config.DistributedStrategy.sync_batch_norm == batch_norm
    # the same in every row of the table
    assert (model.temperature, model.epsilon, model.sinkhorn_iterations) == (0.1, 0.05, 3)
    assert model.crops_for_assign == [0, 1]
    assert (model.backbone.output_dim, model.backbone.nmb_prototypes, model.backbone.normalize) == (128, 3000, True)
    assert model.backbone.head_batch_norm == ("w5" not in file)
    optimizer = config.Optimizer
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("MomentumLARC", 0.9, 1e-6)
    assert (optimizer.trust_coefficient, optimizer.clip) == (0.001, False)
    assert (lr.name, lr.decay_unit, config.FP16.level) == ("TimmCosine", "step", "O1")
    assert list(data.std) == [0.228, 0.224, 0.225]


def test_every_imagenet_pretraining_file_is_in_the_table():
    """Except the baseline that users ask for and nobody published."""
    files = {path.stem for path in (ROOT / "tasks/ssl/swav/configs").glob("*_pt_in1k_*.yaml")}
    assert files - set(RECIPES) == {"swav_resnet50_224_pt_in1k_200ep_2x224_bs256_1n4c_dp_fp16o1"}


EVALUATION = [path for path in CONFIGS if "_lp_" in path.name or "_ft_" in path.name]


@pytest.mark.parametrize("path", [path for path in EVALUATION if "in1k" in path.name], ids=name)
def test_evaluation_recipe_values(path):
    config = load(path)
    optimizer, lr, data = config.Optimizer, config.Optimizer.lr, config.DataLoader.Train.dataset
    cards = int(re.search(r"_\d+n(\d+)c_", path.name)[1])
    batch = config.DataLoader.Train.sampler.batch_size * cards
    if "_lp_" in path.name:
        assert (config.Global.epochs, lr.name, lr.learning_rate, lr.eta_min, optimizer.weight_decay) == (
            100, "TimmCosine", 0.3, 0.0, 1e-6)
        assert lr.decay_unit == "epoch"
        assert batch == 256 or config.Global.lr_base_batch == 256
    else:
        percent = 1 if "_1percent_" in path.name else 10
        head, = optimizer.param_groups
        assert (config.Global.epochs, optimizer.weight_decay, batch) == (20, 0.0, 256)
        assert (lr.learning_rate, head.lr.learning_rate) == {1: (0.02, 5), 10: (0.01, 0.2)}[percent]
        assert (lr.name, lr.milestones, lr.gamma) == ("MultiStepDecay", [12, 16], 0.2)
        assert data.txt_file_name.endswith(f"/{percent}percent.txt")
    assert (optimizer.name, optimizer.momentum) == ("Momentum", 0.9)


@pytest.fixture(scope="module")
def class_tree(tmp_path_factory):
    """Ten classes of four 40-pixel images, and a SimCLR list that names one of each."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("classes")
    for label in range(10):
        (root / f"n{label}").mkdir()
        for number in range(4):
            pixels = np.random.default_rng([label, number]).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"n{label}" / f"n{label}_{number}.png")
    (root.parent / "list.txt").write_text("".join(f"n{label}_0.png\n" for label in range(10)))
    return root


@pytest.mark.parametrize("path", EVALUATION, ids=name)
def test_evaluation_builds(path, class_tree):
    overrides = [f"DataLoader.Train.dataset.root={class_tree}", "DataLoader.Train.sampler.batch_size=10"]
    if "_ft_" in path.name:
        overrides.append(f"DataLoader.Train.dataset.txt_file_name={class_tree.parent / 'list.txt'}")
    overrides.append("Model.backbone.base_channels=4")  # depth and width stay, the network gets small
    config = load(path, *overrides, "Model.class_num=10") if "_lp_" in path.name else load(path, *overrides)
    method = build_method(config, build_loader(config.DataLoader.Train, seed=0))
    assert method.trainable_parameters()


def test_quickstart_builds(images):
    config = load(ROOT / "tasks/ssl/swav/configs/quickstart.yaml", f"DataLoader.Train.dataset.root={images}")
    assert build_method(config, build_loader(config.DataLoader.Train, seed=0)).model.head_sizes
