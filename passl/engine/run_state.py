"""What a checkpoint of a run holds: taken from a trainer and put back into one, side by side.

A value added on one side belongs on the other; `Loaded` of passl/engine/checkpoint.py is what lies between them.
"""
from __future__ import annotations

import time
from typing import Any, Dict

import paddle

from passl import distributed
from passl.engine import checkpoint
from passl.engine.log import Average


def shared_files(run) -> Dict[str, Any]:
    """What rank 0 writes for all ranks of the trainer `run`: file name -> content."""
    states = {"epoch": run.epoch, "iteration": run.iteration, "consumed": run.consumed,
              "global_step": run.step, "best": run.best, "nonfinite_steps": run.nonfinite_steps,
              "averages": {name: average.state() for name, average in run.averages.items()},
              "timestamp": int(time.time()), "precision": run.precision.state_dict(),
              "method": run.method.shared_state(), "iterations_per_epoch": run.iterations,
              "global_batch": run.loader.global_batch_size, "world_size": run.world_size}
    parameters = {name: tensor.numpy() for name, tensor in run.method.model.state_dict().items()}
    return {checkpoint.PARAMETERS: parameters, checkpoint.OPTIMIZER: run.optimizer.state_dict(),
            checkpoint.STATES: states, checkpoint.CONFIG: run.config.to_yaml()}


def rank_state(run) -> Dict[str, Any]:
    """What every rank writes of its own: its part of the method, and running statistics that no other rank shares."""
    state: Dict[str, Any] = {"method": run.method.rank_state()}
    if run.own_statistics:
        state["running_statistics"] = {name: buffer.numpy() for name, buffer in
                                       distributed.running_statistics(run.method.model).items()}
    return state


def put_back(run, loaded: checkpoint.Loaded) -> str:
    """Set every part of the freshly built trainer `run`; what the method says about ranks that are not those saved."""
    model, states = run.method.model, loaded.states
    model.set_state_dict({name: paddle.to_tensor(value) for name, value in loaded.parameters.items()})
    run.optimizer.set_state_dict(loaded.optimizer)
    run.precision.load_state_dict(states["precision"])
    run.method.load_shared_state(states["method"])
    note = run.method.load_rank_states([rank["method"] for rank in loaded.ranks], run.rank, run.world_size)
    if run.own_statistics and len(loaded.ranks) == run.world_size:
        buffers = distributed.running_statistics(model)
        for name, value in loaded.ranks[run.rank].get("running_statistics", {}).items():
            buffers[name].set_value(paddle.to_tensor(value))
    run.epoch, run.iteration, run.consumed = states["epoch"], states["iteration"], states["consumed"]
    run.step, run.best, run.nonfinite_steps = states["global_step"], states["best"], states["nonfinite_steps"]
    run.averages = {name: Average(*state) for name, state in states["averages"].items()}
    return note
