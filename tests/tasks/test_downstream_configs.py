"""Probe and fine-tuning recipes against the published settings, and against PASSL's own files."""
from pathlib import Path

import pytest

from passl.config import check, load_config

CONFIGS = Path(__file__).resolve().parents[2] / "tasks/ssl/swav/configs"
PROBES = sorted(CONFIGS.glob("*_lp_in1k_*.yaml"))
FINE_TUNING = sorted(CONFIGS.glob("*_ft_in1k_*.yaml"))


def load(path):
    return check(load_config(str(path)))


def cards(path):
    return int(path.stem.split("_dp_")[0].rpartition("_")[2].split("n")[1][:-1])


@pytest.mark.parametrize("path", PROBES, ids=lambda path: path.stem)
def test_probe_recipes(path):
    config = load(path)
    assert config.Global.epochs == 100 and config.Global.eval_during_train
    assert (config.Optimizer.momentum, config.Optimizer.weight_decay) == (0.9, 1e-6)
    assert config.Optimizer.lr.plain() == {"name": "TimmCosine", "learning_rate": 0.3, "eta_min": 0.0,
                                           "warmup_epoch": 0, "warmup_start_lr": 0.0, "warmup_prefix": True,
                                           "decay_unit": "epoch"}
    batch = config.DataLoader.Train.sampler.batch_size * cards(path)
    assert config.Global.lr_base_batch == 256 and batch == (1024 if "4n32c" in path.name else 256)
    assert not config.DataLoader.Train.sampler.drop_last  # 5005 iterations on 8 x 32
    assert config.DataLoader.Train.dataset.transform[-1]["Normalize"]["std"] == [0.228, 0.224, 0.225]


@pytest.mark.parametrize("path", FINE_TUNING, ids=lambda path: path.stem)
def test_fine_tuning_recipes(path):
    config = load(path)
    one = "1percent" in path.name
    head, = config.Optimizer.param_groups
    assert config.Global.epochs == 20 and config.Optimizer.weight_decay == 0.0
    assert (config.Optimizer.lr.learning_rate, head.lr.learning_rate) == ((0.02, 5.0) if one else (0.01, 0.2))
    assert head.name == "res_model.projection_head"
    for schedule in (config.Optimizer.lr, head.lr):
        assert (schedule.milestones, schedule.gamma, schedule.decay_unit) == ([12, 16], 0.2, "epoch")
    assert config.DataLoader.Train.dataset.txt_file_name.endswith("1percent.txt" if one else "10percent.txt")
    assert config.DataLoader.Train.sampler.batch_size * cards(path) == 256


def test_every_name_of_passls_readme_exists():
    for name in ("lp_in1k_1n8c_dp_fp16o1", "lp_in1k_1n8c_dp_fp32", "lp_in1k_4n32c_dp_fp16o1", "ft_in1k_1n4c_dp_fp16o1",
                 "ft_in1k_1n4c_dp_fp32"):
        assert (CONFIGS / f"swav_resnet50_224_{name}.yaml").is_file()


def test_probe_equals_passls_file(repository):
    with pytest.warns(UserWarning):
        theirs = check(load_config(str(repository / "tests/config/passl_yaml/lp_1n8c.yaml"))).plain()
    ours = load(CONFIGS / "swav_resnet50_224_lp_in1k_1n8c_dp_fp32.yaml").plain()
    ours["Global"].update(lr_base_batch=None, device="gpu", output_dir="./output")
    assert ours == theirs
