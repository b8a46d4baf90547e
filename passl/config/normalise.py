"""PASSL's several ways to write the same thing, brought to one before the schema is checked."""
from __future__ import annotations

import warnings
from typing import List

from passl.config.config import Config
from passl.config.scalars import parse_scalar
from passl.errors import ConfigWarning


def normalise(config: Config) -> List[str]:
    """Rewrite `config` in place; returns the problems found.

    The schedule moves to Optimizer.lr (from the older LRScheduler section, or from a bare number), its unit to
    Optimizer.lr.decay_unit; an FP16 section without level gets O2, PASSL's reading; sections set to None go away.
    """
    problems: List[str] = []
    for section in [name for name, value in config.items() if value is None]:
        config.pop(section)
    _precision_level(config)
    _schedule_place(config, problems)
    optimizer = config.get("Optimizer")
    if isinstance(optimizer, Config):
        _schedule_form(optimizer, problems)
    return problems


def _precision_level(config: Config) -> None:
    precision = config.get("FP16")
    if isinstance(precision, Config) and precision.get("level") is None:
        place = config.where("FP16")
        warnings.warn(f"{place}: FP16 has no level; taken as O2, as PASSL does. Write 'level: O2', or O1 as the "
                      f"published runs", ConfigWarning, stacklevel=4)
        precision.put("level", "O2", place)


def _schedule_place(config: Config, problems: List[str]) -> None:
    if "LRScheduler" not in config:
        return
    optimizer = config.get("Optimizer")
    if not isinstance(optimizer, Config):
        config.put("Optimizer", Config(), config.where("LRScheduler"))
        optimizer = config["Optimizer"]
    if "lr" in optimizer:
        problems.append(f"{config.where('LRScheduler')}: LRScheduler and Optimizer.lr ({optimizer.where('lr')}) both "
                        f"set the learning rate; keep one")
    else:
        optimizer.take("lr", config, "LRScheduler")
    config.pop("LRScheduler")


def _schedule_form(optimizer: Config, problems: List[str]) -> None:
    groups = optimizer.get("param_groups")
    groups = [group for group in groups if isinstance(group, Config)] if isinstance(groups, list) else []
    for owner in [optimizer] + groups:
        rate = parse_scalar(owner["lr"]) if isinstance(owner.get("lr"), str) else owner.get("lr")
        if isinstance(rate, (int, float)) and not isinstance(rate, bool):
            place = owner.where("lr")
            owner.put("lr", Config({"name": "Constant", "learning_rate": rate}, place), place)
    if "lr_decay_unit" not in optimizer:
        return
    for owner in [optimizer] + groups:
        schedule = owner.get("lr")
        if not isinstance(schedule, Config):
            continue
        if schedule.get("decay_unit", optimizer["lr_decay_unit"]) != optimizer["lr_decay_unit"]:
            problems.append(f"{optimizer.where('lr_decay_unit')}: Optimizer.lr_decay_unit contradicts decay_unit "
                            f"({schedule.where('decay_unit')}); keep one")
        schedule.take("decay_unit", optimizer, "lr_decay_unit")
    optimizer.pop("lr_decay_unit")
