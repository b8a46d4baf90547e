"""From a checked config to the parts of a run that more than one place needs."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Mapping

from passl import distributed
from passl.engine import log, monitor, watch
from passl.engine.callbacks import Callback
from passl.methods.base import Method, RunFacts
from passl.preflight.facts import run_facts
from passl.registry import METHODS


def build_method(config: Mapping[str, Any], loader) -> Method:
    """The method that Model.name stands for, told what it needs to know about the run on the images of `loader`."""
    run = run_facts(config, loader, distributed.world_size())
    return METHODS.build(config["Model"], run=run, losses=(config.get("Loss") or {}).get("Train"),
                         metrics=(config.get("Metric") or {}).get("Train"))


def build_companions(config: Mapping[str, Any], method: Method, dataset, run: RunFacts) -> Dict[str, Any]:
    """What is told of the trunk features of every step, under its name in checkpoints."""
    if not config["Global"]["online_probe"] or method.is_classifier:
        return {}
    from passl.evaluation.online import OnlineProbe

    return {"online_probe": OnlineProbe(method.model.num_features, dataset.labels, run.class_count or 0)}


def build_callbacks(config: Mapping[str, Any], folder: Path, interactive: bool) -> List[Callback]:
    """The callbacks that the Global section asks for."""
    settings = config["Global"]
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
