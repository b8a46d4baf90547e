"""PASSL's four SwAV files: every value arrives with its Python type, and the checks accept them."""
import warnings
from pathlib import Path

import pytest

from passl.config import ConfigWarning, check, load_config

FOLDER = Path(__file__).parent / "passl_yaml"
NAMES = ["pt_4n32c", "pt_1n8c", "lp_1n8c", "ft_1n4c"]


def flat(value, path=""):
    """{"A.B.0": scalar or empty container}"""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    leaves = {}
    for key, child in children:
        leaves.update(flat(child, f"{path}.{key}" if path else str(key)))
    return leaves or {path: value}


def phase(path, **values):
    return {f"DataLoader.{path}.{key}": value for key, value in values.items()}


RUN = {"Global.checkpoint": None, "Global.device": "gpu", "Global.save_interval": 1,
       "Global.max_num_latest_checkpoint": 0,
       "Global.eval_interval": 1, "Global.eval_unit": "epoch", "Global.accum_steps": 1, "Global.use_visualdl": False,
       "Global.seed": 31, "DistributedStrategy.data_parallel": True, "Model.backbone.type": "swavresnet50",
       "Optimizer.momentum": 0.9}


def pretrain(epochs, queue, freeze, rate, eta_min, warmup, warmup_start, batch_size):
    return {
        **RUN, "Global.task_type": "ContrastiveLearning", "Global.train_loop": "ContrastiveLearningTrainingEpochLoop",
        "Global.validate_loop": None, "Global.pretrained_model": None, "Global.output_dir": "./output/",
        "Global.eval_during_train": False, "Global.epochs": epochs, "Global.print_batch_step": 100, "FP16.level": "O1",
        "Model.name": "swav_resnet50_pretrain", "Model.backbone.normalize": True, "Model.backbone.hidden_mlp": 2048,
        "Model.backbone.output_dim": 128, "Model.backbone.nmb_prototypes": 3000, "Model.apex": False,
        "Model.queue_length": queue, "Model.crops_for_assign.0": 0, "Model.crops_for_assign.1": 1,
        "Model.nmb_crops.0": 2,
        "Model.nmb_crops.1": 6, "Model.epsilon": 0.05, "Model.freeze_prototypes_niters": freeze,
        "Optimizer.name": "MomentumLARC", "Optimizer.weight_decay": 0.000001, "Optimizer.trust_coefficient": 0.001,
        "Optimizer.clip": False, "Optimizer.tensor_fusion": False, "Optimizer.lr_decay_unit": "step",
        "Optimizer.lr.name": "TimmCosine", "Optimizer.lr.learning_rate": rate, "Optimizer.lr.eta_min": eta_min,
        "Optimizer.lr.warmup_epoch": warmup, "Optimizer.lr.warmup_start_lr": warmup_start,
        "Optimizer.lr.warmup_prefix": True,
        **phase("Train.dataset", **{
            "name": "SwAVMultiCropDataset", "root": "./dataset/ILSVRC2012", "size_crops.0": 224, "size_crops.1": 96,
            "num_crops.0": 2, "num_crops.1": 6, "min_scale_crops.0": 0.14, "min_scale_crops.1": 0.05,
            "max_scale_crops.0": 1, "max_scale_crops.1": 0.14}),
        **phase("Train.sampler", name="DistributedBatchSampler", batch_size=batch_size, drop_last=True, shuffle=True),
        **phase("Train.loader", num_workers=10, use_shared_memory=True)}


def downstream(batch_size):
    normalize = {"mean.0": 0.485, "mean.1": 0.456, "mean.2": 0.406, "std.0": 0.228, "std.1": 0.224, "std.2": 0.225}
    return {
        **RUN, "Global.task_type": "Classification", "Global.train_loop": "ClassificationTrainingEpochLoop",
        "Global.validate_loop": "ClassificationEvaluationLoop", "Global.output_dir": "./output",
        "Global.pretrained_model": "./pretrained/swav/swav_resnet50_in1k_800ep_bz4096_pretrained",
        "Global.eval_during_train": True, "Loss.Train.0.CELoss.weight": 1.0, "Loss.Eval.0.CELoss.weight": 1.0,
        "Optimizer.name": "Momentum", "Optimizer.lr_decay_unit": "epoch",
        "DataLoader.Train.dataset.root": "./dataset/ILSVRC2012/train",
        **phase("Train.dataset.transform",
                **{"0.RandomResizedCrop.size": 224, "1.RandomHorizontalFlip": None, "2.ToTensor": None}),
        **phase("Train.dataset.transform.3.Normalize", **normalize),
        **phase("Train.sampler", name="DistributedBatchSampler", batch_size=batch_size, drop_last=False, shuffle=True),
        **phase("Train.loader", num_workers=8, use_shared_memory=True),
        **phase("Eval.dataset", name="ImageFolder", root="./dataset/ILSVRC2012/val"),
        **phase("Eval.dataset.transform", **{"0.Resize.size": 256, "1.CenterCrop.size": 224, "2.ToTensor": None}),
        **phase("Eval.dataset.transform.3.Normalize", **normalize),
        **phase("Eval.sampler", name="DistributedBatchSampler", batch_size=batch_size, drop_last=False, shuffle=False),
        **phase("Eval.loader", num_workers=8, use_shared_memory=True),
        **{f"Metric.{name}.0.TopkAcc.topk.{index}": k for name in ("Train", "Eval") for index, k in enumerate((1, 5))},
        "Export.export_type": "paddle",
        **{f"Export.input_shape.{n}": side for n, side in enumerate((None, 3, 224, 224))}}


def steps(owner, rate):
    return {f"{owner}.name": "MultiStepDecay", f"{owner}.learning_rate": rate, f"{owner}.milestones.0": 12,
            f"{owner}.milestones.1": 16, f"{owner}.gamma": 0.2, f"{owner}.last_epoch": -1}


EXPECTED = {
    "pt_4n32c": pretrain(800, 0, 313, 4.8, 0.0048, 10, 0.3, 128),
    "pt_1n8c": {**pretrain(400, 3804, 5005, 0.6, 0.0006, 0, 0.0, 64), "Optimizer.lr.last_epoch": 0},
    "lp_1n8c": {
        **downstream(32), "Global.epochs": 100, "Global.print_batch_step": 100,
        "Model.name": "swav_resnet50_linearprobe",
        "Model.backbone.output_dim": 0, "Model.backbone.eval_mode": True, "Model.class_num": 1000,
        "Optimizer.weight_decay": 0.000001, "Optimizer.tensor_fusion": True, "Optimizer.lr.name": "TimmCosine",
        "Optimizer.lr.learning_rate": 0.3, "Optimizer.lr.eta_min": 0.0, "Optimizer.lr.warmup_epoch": 0,
        "Optimizer.lr.last_epoch": 0, "DataLoader.Train.dataset.name": "ImageFolder"},
    "ft_1n4c": {
        **downstream(128), "Global.finetune": True, "Global.epochs": 20, "Global.print_batch_step": 50,
        "Model.name": "swav_resnet50_finetune", "Model.backbone.output_dim": 1000, "Optimizer.weight_decay": 0.0,
        "Optimizer.tensor_fusion": False, **steps("Optimizer.lr", 0.02),
        "Optimizer.param_groups.0.name": "res_model.projection_head", **steps("Optimizer.param_groups.0.lr", 5),
        "DataLoader.Train.dataset.name": "FewShotDataset",
        "DataLoader.Train.dataset.txt_file_name": "./dataset/ILSVRC2012/10percent.txt"},
}


@pytest.mark.parametrize("name", NAMES)
def test_every_value_has_its_python_type(name):
    loaded = flat(load_config(FOLDER / f"{name}.yaml"))
    assert loaded == EXPECTED[name]
    assert {path: type(value) for path, value in loaded.items()} == {
        path: type(value) for path, value in EXPECTED[name].items()}


@pytest.mark.parametrize("name, ignored", [
    ("pt_4n32c", {"Model.apex"}),
    ("pt_1n8c", {"Model.apex", "Optimizer.lr.last_epoch"}),
    ("lp_1n8c", {"Global.validate_loop", "Optimizer.lr.last_epoch"}),
    ("ft_1n4c", {"Global.validate_loop", "Global.finetune", "Optimizer.lr.last_epoch",
                 "Optimizer.param_groups.0.lr.last_epoch"}),
])
def test_accepted_with_a_warning_for_each_key_without_effect(name, ignored, registries):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = check(load_config(FOLDER / f"{name}.yaml"), registries)
    assert all(warning.category is ConfigWarning for warning in caught)
    named = {str(warning.message).split(": ")[1].split(" ")[0] for warning in caught}
    shared_memory = {f"DataLoader.{phase}.loader.use_shared_memory" for phase in config.DataLoader}
    everywhere = {"Global.task_type", "Global.train_loop", "Optimizer.tensor_fusion"}
    assert named == ignored | shared_memory | everywhere
    assert config.Optimizer.lr.decay_unit == ("step" if name.startswith("pt") else "epoch")


def test_the_group_of_the_fine_tuned_head_follows_the_common_unit(registries):
    with pytest.warns(ConfigWarning):
        config = check(load_config(FOLDER / "ft_1n4c.yaml"), registries)
    assert config.Optimizer.param_groups == [{"name": "res_model.projection_head", "lr": {
        "name": "MultiStepDecay", "learning_rate": 5.0, "milestones": [12, 16], "gamma": 0.2, "decay_unit": "epoch"}}]
