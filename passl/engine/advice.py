"""Warnings before the first step: settings that can run but are probably not what is meant."""
from __future__ import annotations

import re
from typing import Any, List, Mapping, Optional, Tuple

from passl.engine.build import RunError, scaled_optimizer


def before_training(config: Mapping[str, Any], method, global_batch: int, images: int) -> List[str]:
    """All of them for a run of `method` over `images` training images."""
    return [*idle_sections(config, method), *learning_rate_advice(config, global_batch, method.published_rates),
            *method.advice(global_batch, images, config["Global"]["epochs"])]


def idle_sections(config: Mapping[str, Any], method) -> List[str]:
    """Warnings about parts of a config that say something else than what is done."""
    from passl.methods.classify import Classification

    warnings = []
    name, network = config["Model"]["name"], config["Model"]["backbone"].get("type", "")
    named = re.fullmatch(r"[a-z0-9]+(?:_swav)?_(resnet\w+?)_(pretrain|linearprobe|finetune)", name)
    if named and named[1] != network.replace("swav", "", 1):
        warnings.append(f"Model.name {name} speaks of {named[1]} but Model.backbone.type is {network}, which is what "
                        "runs; the output folder has the name")
    if not isinstance(method, Classification):
        warnings += [f"{section} has no effect: {name} brings its own loss and has no labels to measure with"
                     for section in ("Loss", "Metric") if config.get(section)]
        if method.has_embedding and not config["Model"]["backbone"].get("normalize"):
            warnings.append("Model.backbone.normalize is not True: embeddings of any length make scores of any size, "
                            "and NaN of them sooner or later; clustering methods work on the unit sphere")
    return warnings


def learning_rate_advice(config: Mapping[str, Any], global_batch: int,
                         published: Optional[Tuple[str, float, float]] = None) -> List[str]:
    """A warning about a learning rate that was published for another global batch (linear rule).

    published: (optimizer, lowest, highest rate) of the method's own recipes at 256; more than twice outside is worth a
    word. Other optimizers have scales of their own.
    """
    optimizer = scaled_optimizer(config, global_batch)
    rate = optimizer["lr"].get("learning_rate")
    if not published or not rate or optimizer["name"] != published[0]:
        return []
    low, high = (value * global_batch / 256 for value in published[1:])
    if low / 2 <= rate <= 2 * high:
        return []
    there, here = (f"{first:.2g}" if first == last else f"{first:.2g} to {last:.2g}"
                   for first, last in (published[1:], (low, high)))
    return [f"Optimizer.lr.learning_rate {rate:g} does not fit a global batch of {global_batch}: {there} was published "
            f"for 256, i.e. {here} here (linear rule); -o Global.lr_base_batch=256 scales rates that are meant for 256"]


def untrained_trunk_advice(method) -> List[str]:
    """A warning when a run that evaluates a trunk starts without weights; RunError for a frozen one."""
    from passl.methods.classify import Classification

    if not isinstance(method, Classification):
        return []
    if not method.allow_untrained_trunk:
        raise RunError("Global.pretrained_model is not set, so the probe would be trained on a frozen trunk of random "
                       "weights: name a pretraining run, or set Model.allow_untrained_trunk to True for a baseline")
    return ["Global.pretrained_model is not set: the trunk starts from random weights"]
