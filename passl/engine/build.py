"""From a checked config to the parts of a run; every contradiction between sections is found here, before step 1."""
from __future__ import annotations

import copy
from typing import Any, Dict, List, Mapping

from passl import distributed
from passl.engine.callbacks import Callback
from passl.registry import METHODS


class RunError(ValueError):
    """A run that cannot start or go on; the message says what to change."""


def refuse_unsupported(config: Mapping[str, Any], world_size: int) -> None:
    """Stop at sections that PASSL knows and this library has no use for, instead of training something else."""
    if config.get("EMA"):
        raise RunError("the EMA section has no effect on any method here (none of them averages weights): remove it")
    if world_size > 1 and not config["DistributedStrategy"]["data_parallel"]:
        raise RunError(f"DistributedStrategy.data_parallel is False but {world_size} processes run: data parallelism "
                       "is the only strategy, set it to True or start one process")
    sampler = config["DataLoader"]["Train"].get("sampler") or {}
    if world_size > 1 and sampler.get("name") == "BatchSampler":
        raise RunError(f"DataLoader.Train.sampler.name is BatchSampler, which gives each of the {world_size} processes "
                       "the same images: use DistributedBatchSampler")


def build_method(config: Mapping[str, Any], loader):
    """The method that Model.name stands for, told what it needs to know about the data."""
    dataset = loader.dataset
    crops = config["DataLoader"]["Train"]["dataset"].get("num_crops")
    class_count = len(dataset.classes) or int(dataset.labels.max()) + 1 or None  # label lists have no names
    method = METHODS.build(config["Model"], batch_size=loader.batch_size, world_size=distributed.world_size(),
                           iterations_per_epoch=len(loader), crop_count=None if crops is None else sum(crops),
                           dataset_size=len(dataset), class_count=class_count, seed=config["Global"]["seed"],
                           epochs=config["Global"]["epochs"],
                           losses=(config.get("Loss") or {}).get("Train"),
                           metrics=(config.get("Metric") or {}).get("Train"))
    if config["Global"]["online_probe"] and crops is not None:
        from passl.evaluation.online import OnlineProbe

        return OnlineProbe(method, dataset.labels, class_count or 0)
    return method


def scaled_optimizer(config: Mapping[str, Any], global_batch: int) -> Dict[str, Any]:
    """The Optimizer section with all its learning rates brought from Global.lr_base_batch to `global_batch`."""
    section = copy.deepcopy(dict(config["Optimizer"]))
    factor = global_batch / (config["Global"]["lr_base_batch"] or global_batch)
    for owner in [section, *(section.get("param_groups") or [])]:
        schedule = owner.get("lr") or {}
        for key in ("learning_rate", "eta_min", "warmup_start_lr"):
            if schedule.get(key):
                schedule[key] *= factor
    return section


def build_callbacks(config: Mapping[str, Any], folder, interactive: bool) -> List[Callback]:
    """The callbacks that the Global section asks for; what writes files runs on rank 0 only."""
    from passl.engine import log, monitor, watch

    settings = config["Global"]
    if distributed.rank() != 0:
        return []
    callbacks: List[Callback] = [log.LogLines(settings["print_batch_step"]),
                                 monitor.JsonLines(folder / "metrics.jsonl"),
                                 monitor.CropPicture(folder / "first_batch.png"),
                                 monitor.ClassNames(folder / "classes.txt"),
                                 watch.LearningWatch()]
    if settings["progress"] == "bar" or settings["progress"] == "auto" and interactive:
        callbacks.append(log.ProgressBar())
    if settings["use_visualdl"]:
        callbacks.append(monitor.VisualDL(folder.parent / "vdl", settings["print_batch_step"]))
    return callbacks
