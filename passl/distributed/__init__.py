"""The one place that talks to `paddle.distributed`: joining a job, collectives, batch norm and gradients over ranks.

Importing this package does not import Paddle, so that the command line can check the launch variables first.
"""
from __future__ import annotations

import importlib

from passl.distributed.collectives import *  # noqa: F403  # its __all__ names them
from passl.distributed.initialize import *  # noqa: F403

# Names of modules that define Paddle layers or operators, imported when one of their names is first asked for.
_LAZY = {name: module for module, names in {
    "gradient_reduction": ("no_sync", "wrap"),
    "sync_batch_norm": ("convert_batch_norm", "group_size", "running_statistics", "statistics_of_rank_0"),
    "watchdog": ("watchdog",),
}.items() for name in names}


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
