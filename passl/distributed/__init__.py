"""The one place that talks to `paddle.distributed`: joining a job, collectives, batch norm and gradients over ranks.

Importing this package does not import Paddle, so that the command line can check the launch variables first.
"""
from __future__ import annotations

import importlib

from passl.distributed.collectives import (
    CollectiveCount,
    JointFailure,
    RankFailure,
    all_gather,
    all_gather_rows,
    all_ok,
    all_reduce,
    all_reduce_coalesced,
    barrier,
    broadcast,
    collective_counter,
    fail_together,
    gather_objects,
    is_initialized,
    local_rank,
    rank,
    together,
    wait_for_ranks,
    world_size,
)
from passl.distributed.initialize import Launch, LaunchError, check_launch_environment, initialize, launched_device

# Modules that define Paddle layers or operators, imported when one of their names is first asked for.
_LAZY = {
    "all_reduce_sum": "differentiable",
    "check_gradients_agree": "gradient_reduction",
    "convert_batch_norm": "sync_batch_norm",
    "group_size": "sync_batch_norm",
    "no_sync": "gradient_reduction",
    "running_statistics": "sync_batch_norm",
    "statistics_of_rank_0": "sync_batch_norm",
    "unwrap": "gradient_reduction",
    "watchdog": "watchdog",
    "wrap": "gradient_reduction",
}

__all__ = ["CollectiveCount", "JointFailure", "Launch", "LaunchError", "RankFailure", "all_gather", "all_gather_rows",
           "all_ok", "all_reduce", "all_reduce_coalesced", "barrier", "broadcast", "check_launch_environment",
           "collective_counter", "fail_together", "gather_objects", "initialize", "is_initialized", "launched_device",
           "local_rank", "rank", "together", "wait_for_ranks", "world_size", *_LAZY]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
