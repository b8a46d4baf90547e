"""How far a run has come, and everything that a checkpoint of it holds."""
from __future__ import annotations

import sys
import time
from typing import Any, Dict, Mapping, Optional

import paddle

from passl import distributed
from passl.engine import checkpoint
from passl.engine.log import Average
from passl.inference.card import describe
from passl.methods.base import RunFacts
from passl.weights.layouts.description import DESCRIPTION


class Progress:
    """The counters of a run. `step` counts optimizer steps; `position` is the place in the schedule.

    sampler: of the training data. epochs: of the run. limit: Global.max_train_step.
    Attributes: epoch, and `consumed` samples of it used by all ranks: where the next step stands. iteration: steps made
    in this epoch. step: steps of the run, on whatever number of ranks, those left out included. best: metric of the
    best evaluation. nonfinite_steps: left out so far. averages: loss and statistics of this epoch.
    """

    def __init__(self, sampler, epochs: int, limit: Optional[int] = None):
        self.sampler, self.epochs, self.limit = sampler, epochs, limit
        self.epoch = self.consumed = self.iteration = self.step = self.nonfinite_steps = 0
        self.best: Optional[float] = None
        self.averages: Dict[str, Average] = {}

    @property
    def position(self) -> int:
        """Steps that lie behind in the schedule: all of them, were the whole run made with the present batch."""
        return self.epoch * len(self.sampler) + self.consumed // self.sampler.global_batch_size

    @property
    def left_in_epoch(self) -> int:
        return self.sampler.iterations(self.consumed)

    @property
    def iterations(self) -> int:
        """Steps of the current epoch (fewer than usual after resuming on another number of ranks)."""
        return self.iteration + self.left_in_epoch

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run, those done and those to come."""
        to_come = 0
        if self.epoch < self.epochs:
            to_come = (self.epochs - self.epoch - 1) * len(self.sampler) + self.left_in_epoch
        return min(self.step + to_come, max(self.step, self.limit or sys.maxsize))

    @property
    def at_limit(self) -> bool:
        return self.limit is not None and self.step >= self.limit

    @property
    def done(self) -> bool:
        return self.epoch >= self.epochs or self.at_limit

    def count_step(self, values: Mapping[str, Any]) -> None:
        """One more step; `values` join the averages of the epoch (none of a step that was left out)."""
        self.step, self.iteration = self.step + 1, self.iteration + 1
        self.consumed += self.sampler.global_batch_size
        for name, value in values.items():
            self.averages.setdefault(name, Average()).add(value)

    def start_epoch(self, epoch: int) -> None:
        self.epoch, self.iteration, self.consumed, self.averages = epoch, 0, 0, {}

    def state_dict(self) -> Dict[str, Any]:
        return {"epoch": self.epoch, "iteration": self.iteration, "consumed": self.consumed, "global_step": self.step,
                "best": self.best, "nonfinite_steps": self.nonfinite_steps,
                "averages": {name: average.state() for name, average in self.averages.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.iteration, self.consumed = state["epoch"], state["iteration"], state["consumed"]
        self.step, self.best, self.nonfinite_steps = state["global_step"], state["best"], state["nonfinite_steps"]
        self.averages = {name: Average(*average) for name, average in state["averages"].items()}


class NamedParts:
    """The parts of a run that a checkpoint holds, by name, and the files they lie in (passl/engine/checkpoint.py).

    `passl.pdparams` the model, `passl.pdopt` the optimizer, `passl.pdstates` progress, precision, method and what
    watches it, `rank_R.pdstates` what every rank has of its own.
    companions: name -> part with `state_dict` and `load_state_dict`; they stand beside what the method shares.
    own_statistics: ranks keep running batch-norm statistics of their own.
    """

    def __init__(self, config, method, optimizer, precision, progress: Progress, companions: Mapping[str, Any],
                 run: RunFacts, own_statistics: bool):
        self.config, self.method, self.optimizer = config, method, optimizer
        self.precision, self.progress, self.companions = precision, progress, companions
        self.sizes = {"iterations_per_epoch": run.iterations_per_epoch, "global_batch": run.global_batch,
                      "world_size": run.world_size}
        self.own_statistics = own_statistics

    def shared_files(self) -> Dict[str, Any]:
        """What rank 0 writes for all ranks: file name -> content."""
        companions = {name: companion.state_dict() for name, companion in self.companions.items()}
        states = {**self.progress.state_dict(), "timestamp": int(time.time()), "precision": self.precision.state_dict(),
                  "method": {**self.method.shared_state(), **companions}, **self.sizes}
        parameters = {name: tensor.numpy() for name, tensor in self.method.model.state_dict().items()}
        parameters[DESCRIPTION] = describe(self.config).plain()
        return {checkpoint.PARAMETERS: parameters, checkpoint.OPTIMIZER: self.optimizer.state_dict(),
                checkpoint.STATES: states, checkpoint.CONFIG: self.config.to_yaml()}

    def load(self, loaded: checkpoint.Loaded) -> Optional[str]:
        """Put everything back; what the method says when there were other ranks."""
        states, rank, world_size = loaded.states, distributed.rank(), distributed.world_size()
        self.method.model.set_state_dict({name: paddle.to_tensor(value) for name, value in loaded.parameters.items()})
        self.optimizer.set_state_dict(loaded.optimizer)
        self.progress.load_state_dict(states)
        self.precision.load_state_dict(states["precision"])
        for name, companion in self.companions.items():
            companion.load_state_dict(states["method"].get(name, {}))
        self.method.load_shared_state(states["method"])
        note = self.method.load_rank_states([saved["method"] for saved in loaded.ranks], rank, world_size)
        if self.own_statistics and len(loaded.ranks) == world_size:
            buffers = distributed.running_statistics(self.method.model)
            for name, value in loaded.ranks[rank].get("running_statistics", {}).items():
                buffers[name].set_value(paddle.to_tensor(value))
        return note

    def rank_state(self) -> Dict[str, Any]:
        """What every rank writes of its own: its part of the method, and running statistics that no other shares."""
        state: Dict[str, Any] = {"method": self.method.rank_state()}
        if self.own_statistics:
            state["running_statistics"] = {name: buffer.numpy() for name, buffer in
                                           distributed.running_statistics(self.method.model).items()}
        return state
