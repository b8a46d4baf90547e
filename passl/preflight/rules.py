"""What is worth saying before the first step: each rule looks at the facts and gives findings."""
from __future__ import annotations

import re
from typing import Any, Iterator, List, Mapping

from passl.findings import Finding, warning
from passl.preflight.facts import Facts, scaled_optimizer


def config_findings(config: Mapping[str, Any], world_size: int) -> Iterator[Finding]:
    """What can be said before images are looked for: sections that PASSL knows and this library has no use for."""
    if config.get("EMA"):
        yield Finding("refusal", "the EMA section has no effect on any method here (none of them averages weights)",
                      "remove it")
    if world_size > 1 and not config["DistributedStrategy"]["data_parallel"]:
        yield Finding("refusal", f"DistributedStrategy.data_parallel is False but {world_size} processes run",
                      "data parallelism is the only strategy; set it to True or start one process")
    sampler = config["DataLoader"]["Train"].get("sampler") or {}
    if world_size > 1 and sampler.get("name") == "BatchSampler":
        yield Finding("refusal", f"DataLoader.Train.sampler.name is BatchSampler, which gives each of the {world_size} "
                      "processes the same images: use DistributedBatchSampler")


def run_findings(facts: Facts) -> List[Finding]:
    """What all rules and the method itself say of a run that is about to start."""
    return [*(finding for rule in RULES for finding in rule(facts)), *facts.method.advice(facts.run)]


def untrained_trunk(facts: Facts) -> Iterator[Finding]:
    """A run that evaluates a trunk starts without weights."""
    if not facts.method.is_classifier or facts.resumes or facts.config["Global"]["pretrained_model"]:
        return
    if facts.method.allow_untrained_trunk:
        yield warning("Global.pretrained_model is not set: the trunk starts from random weights")
    else:
        yield Finding("refusal", "Global.pretrained_model is not set, so the probe would be trained on a frozen trunk "
                      "of random weights: name a pretraining run, or set Model.allow_untrained_trunk to True for a "
                      "baseline")


def idle_sections(facts: Facts) -> Iterator[Finding]:
    """Parts of the config say something else than what is done."""
    config, settings = facts.config, facts.config["Global"]
    name, network = config["Model"]["name"], config["Model"]["backbone"].get("type", "")
    named = re.fullmatch(r"[a-z0-9]+(?:_swav)?_(resnet\w+?)_(pretrain|linearprobe|finetune)", name)
    if named and named[1] != network.replace("swav", "", 1):
        yield warning(f"Model.name {name} speaks of {named[1]} but Model.backbone.type is {network}, which is what "
                      "runs; the output folder has the name")
    for section in ("Loss", "Metric"):
        if config.get(section) and not facts.method.is_classifier:
            yield warning(f"{section} has no effect: {name} brings its own loss and has no labels to measure with")
    if facts.method.has_embedding and not config["Model"]["backbone"].get("normalize"):
        yield warning("Model.backbone.normalize is not True: embeddings of any length make scores of any size, and NaN "
                      "of them sooner or later", "clustering methods work on the unit sphere",
                      "Model.backbone.normalize=True")
    if settings["eval_unit"] == "step" and settings["knn_interval"]:
        yield warning("Global.eval_unit step has no effect: Global.knn_interval counts epochs, and the online probe is "
                      "measured with it", "measure the probe alone", "Global.knn_interval=0")


def learning_rate(facts: Facts) -> Iterator[Finding]:
    """The learning rate was published for another global batch (linear rule).

    More than twice outside the method's `published_rates` is worth a word. Other optimizers have scales of their own.
    """
    published, batch = facts.method.published_rates, facts.run.global_batch
    optimizer = scaled_optimizer(facts.config, batch)
    rate = optimizer["lr"].get("learning_rate")
    if not published or not rate or optimizer["name"] != published[0]:
        return
    is_scaled = facts.config["Global"]["lr_base_batch"] == 256
    low, high = (value * batch / 256 for value in published[1:])
    if low / 2 <= rate <= 2 * high:
        return
    there, here = (f"{first:.2g}" if first == last else f"{first:.2g} to {last:.2g}"
                   for first, last in (published[1:], (low, high)))
    yield warning(f"Optimizer.lr.learning_rate {rate:g} does not fit a global batch of {batch}: {there} was published "
                  f"for 256, i.e. {here} here (linear rule)",
                  *[] if is_scaled else ["scale rates that are meant for 256", "Global.lr_base_batch=256"])


RULES = (idle_sections, learning_rate, untrained_trunk)
