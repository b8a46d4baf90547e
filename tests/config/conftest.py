"""A small world of components, so that the checks are tested apart from the real ones."""
from __future__ import annotations

import textwrap
from typing import Any, Dict, List, Optional, Tuple, Union

import pytest

from passl.registry import Registry


def _registry(kind, **components):
    registry = Registry(kind, "passl")
    registry._imported = True  # nothing to import: the components are given here
    for name, (target, options) in components.items():
        registry.register(*options.pop("names", (name,)), **options)(target)
    return registry


def pretrain(backbone: Dict[str, Any], epsilon: float = 0.05, queue_length: int = 0,
             crops_for_assign: List[int] = (0, 1), nmb_crops: Optional[List[int]] = None,
             freeze_prototypes_niters: int = 313, batch_size: int = 1):
    """A method."""


def classify(backbone: Dict[str, Any], class_num: int = 1000):
    """Another method."""


def backbone(normalize: bool = False, hidden_mlp: int = 0, output_dim: int = 0,
             nmb_prototypes: Union[int, List[int]] = 0, eval_mode: bool = False):
    """A network."""


def multi_crop(root: str, size_crops: List[int], num_crops: List[int], min_scale_crops: List[float],
               max_scale_crops: List[float], seed: int = 0):
    """A dataset without transform."""


def image_folder(root: str, transform: Optional[list] = None):
    """A dataset with transform."""


def few_shot(root: str, txt_file_name: str, transform: Optional[list] = None, transform_ops: Optional[list] = None):
    """A dataset that knows both spellings."""


def larc(parameters, momentum: float = 0.9, weight_decay: float = 0.0, trust_coefficient: float = 0.001,
         clip: bool = False):
    """An optimizer."""


def momentum(parameters, momentum: float = 0.9, weight_decay: float = 0.0):
    """Another optimizer."""


def adamw(parameters, betas: Tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01):
    """A third optimizer."""


def cosine(learning_rate: float, eta_min: float = 0.0, warmup_epoch: float = 0, warmup_start_lr: float = 0.0,
           warmup_prefix: bool = True, decay_unit: str = "step", epochs: int = 1):
    """A schedule."""


def multi_step(learning_rate: float, milestones: List[int], gamma: float = 0.1, decay_unit: str = "epoch",
               epochs: int = 1):
    """Another schedule."""


def constant(learning_rate: float, decay_unit: str = "step"):
    """A third schedule."""


def sampler(size: int, batch_size: int, shuffle: bool = False, drop_last: bool = False):
    """A sampler."""


def no_argument():
    """A transform."""


def sized(size: Union[int, List[int]]):
    """Another transform."""


def normalize(mean: List[float], std: List[float], scale: float = 1.0):
    """A third transform."""


def compose(transforms: list):
    """A transform made of transforms."""


def cross_entropy(epsilon: Optional[float] = None):
    """A loss."""


def topk_accuracy(topk: List[int] = (1, 5)):
    """A metric."""


@pytest.fixture
def registries():
    of_epochs = {"context": ("epochs",), "legacy": {"last_epoch": "the position follows from the step"}}
    stepped = {"context": ("parameters",)}
    return {
        "METHODS": _registry("method", swav_resnet50_pretrain=(pretrain, {"context": ("batch_size",)}),
                             swav_resnet50_linearprobe=(classify, {}), swav_resnet50_finetune=(classify, {})),
        "BACKBONES": _registry("backbone", swavresnet50=(backbone, {})),
        "DATASETS": _registry("dataset", SwAVMultiCropDataset=(multi_crop, {"context": ("seed",)}),
                              ImageFolder=(image_folder, {}), FewShotDataset=(few_shot, {})),
        "SAMPLERS": _registry("sampler", DistributedBatchSampler=(sampler, {"context": ("size",)})),
        "TRANSFORMS": _registry("transform", RandomResizedCrop=(sized, {}), Resize=(sized, {}), CenterCrop=(sized, {}),
                                RandomHorizontalFlip=(no_argument, {}), ToTensor=(no_argument, {}),
                                Normalize=(normalize, {}), Compose=(compose, {})),
        "OPTIMIZERS": _registry("optimizer", MomentumLARC=(larc, dict(stepped)), Momentum=(momentum, dict(stepped)),
                                AdamW=(adamw, dict(stepped))),
        "SCHEDULES": _registry("schedule", TimmCosine=(cosine, dict(of_epochs)),
                               MultiStepDecay=(multi_step, dict(of_epochs)), Constant=(constant, {})),
        "LOSSES": _registry("loss", CELoss=(cross_entropy, {})),
        "METRICS": _registry("metric", TopkAcc=(topk_accuracy, {})),
    }


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write(name, text) -> name, in a folder that is also the current one."""
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        return name

    return write
