"""What the rules before the first step look at."""
from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Dict, Mapping

from passl.methods.base import RunFacts


@dataclass(frozen=True)
class Facts:
    """A run that is about to start.

    config: checked. method: built, or its class where a rule needs no more. run: sizes of the run. resumes: whether it
    goes on from a checkpoint of its own.
    """

    config: Mapping[str, Any]
    method: Any
    run: RunFacts = RunFacts()
    resumes: bool = False


def run_facts(config: Mapping[str, Any], loader, world_size: int) -> RunFacts:
    """Sizes of the run of `config` on the images of `loader`, its loader of training data."""
    dataset = loader.dataset
    crops = config["DataLoader"]["Train"]["dataset"].get("num_crops")
    return RunFacts(batch_size=loader.batch_size, world_size=world_size, iterations_per_epoch=len(loader),
                    epochs=config["Global"]["epochs"], crop_count=None if crops is None else sum(crops),
                    dataset_size=len(dataset), seed=config["Global"]["seed"],
                    class_count=len(dataset.classes) or int(dataset.labels.max()) + 1 or None)  # lists have no names


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
