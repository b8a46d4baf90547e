"""Learning-rate schedules as functions of the optimizer step: pure arithmetic, nothing to save or restore.

A schedule is built from its config and called with the step (counted from 0 over the whole run); `decay_unit: epoch`
holds the value of an epoch's first step through the epoch.
"""
from __future__ import annotations

import math
from typing import List, Literal, Optional

from passl.errors import UserError
from passl.registry import SCHEDULES

DecayUnit = Literal["step", "epoch"]
CONTEXT = ("epochs", "iterations_per_epoch")
LEGACY = {"last_epoch": "the position follows from the step, which resuming restores",
          "verbose": "the learning rate is part of every log line"}


def _check_rates(**rates: Optional[float]) -> None:
    """UserError for a negative learning rate; `rates` are named by their keys below Optimizer.lr."""
    for key, rate in rates.items():
        if rate is not None and rate < 0:
            raise UserError(f"Optimizer.lr.{key} is {rate}; a learning rate is at least 0")


class Schedule:
    """Base: turns a step into the position the formulas count in (steps or whole epochs)."""

    def __init__(self, decay_unit: DecayUnit, epochs: int, iterations_per_epoch: int):
        self.per_epoch = iterations_per_epoch if decay_unit == "step" else 1
        self.divisor = 1 if decay_unit == "step" else iterations_per_epoch
        self.total = epochs * self.per_epoch

    def __call__(self, step: int) -> float:
        return self.value(step // self.divisor)

    def value(self, position: int) -> float:
        raise NotImplementedError


@SCHEDULES.register("Constant", context=CONTEXT, legacy=LEGACY)
class Constant(Schedule):
    """The same rate throughout."""

    def __init__(self, learning_rate: float, decay_unit: DecayUnit = "step", epochs: int = 1,
                 iterations_per_epoch: int = 1):
        super().__init__(decay_unit, epochs, iterations_per_epoch)
        _check_rates(learning_rate=learning_rate)
        self.learning_rate = learning_rate

    def value(self, position):
        return self.learning_rate


@SCHEDULES.register("TimmCosine", "Cosine", context=CONTEXT, legacy=LEGACY)
class TimmCosine(Schedule):
    """Linear warm-up, then half a cosine from learning_rate towards eta_min (reached only after the last step).

    The warm-up rises from warmup_start_lr to learning_rate inclusive, so the base rate occurs twice: at the last
    warm-up step and at the first of the cosine, as in the reference. warmup_epoch 0 is a plain cosine.
    warmup_prefix=False lets the cosine run over the whole training, hidden by the warm-up (timm's habit).
    """

    def __init__(self, learning_rate: float, eta_min: float = 0.0, warmup_epoch: float = 0,
                 warmup_start_lr: float = 0.0, warmup_prefix: bool = True, decay_unit: DecayUnit = "step",
                 epochs: int = 1, iterations_per_epoch: int = 1):
        super().__init__(decay_unit, epochs, iterations_per_epoch)
        _check_rates(learning_rate=learning_rate, eta_min=eta_min, warmup_start_lr=warmup_start_lr)
        self.base, self.final, self.start = learning_rate, eta_min, warmup_start_lr
        self.warmup = int(warmup_epoch * self.per_epoch)
        if self.warmup > self.total:
            raise UserError(f"Optimizer.lr.warmup_epoch {warmup_epoch} is longer than Global.epochs {epochs}")
        self.prefix = warmup_prefix

    def value(self, position):
        if position < self.warmup:
            if self.warmup == 1:
                return self.start
            return self.start + (self.base - self.start) * position / (self.warmup - 1)
        skipped = self.warmup if self.prefix else 0
        progress = (position - skipped) / max(1, self.total - skipped)
        return self.final + 0.5 * (self.base - self.final) * (1 + math.cos(math.pi * min(1.0, progress)))


@SCHEDULES.register("MultiStepDecay", context=CONTEXT, legacy=LEGACY)
class MultiStepDecay(Schedule):
    """learning_rate times gamma at every milestone passed; milestones count epochs, whatever the decay unit."""

    def __init__(self, learning_rate: float, milestones: List[int], gamma: float = 0.1, decay_unit: DecayUnit = "epoch",
                 epochs: int = 1, iterations_per_epoch: int = 1):
        super().__init__(decay_unit, epochs, iterations_per_epoch)
        self.learning_rate, self.gamma = learning_rate, gamma
        self.milestones = [milestone * self.per_epoch for milestone in milestones]

    def value(self, position):
        return self.learning_rate * self.gamma ** sum(position >= milestone for milestone in self.milestones)
