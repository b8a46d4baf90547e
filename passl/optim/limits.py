"""Settings of optimizers and schedules that no run can mean, refused with the key and the usual value."""
from __future__ import annotations

from typing import Optional, Sequence

from passl.errors import UserError


def check_optimizer(momentum: Optional[float] = None, betas: Sequence[float] = (), weight_decay: float = 0.0) -> None:
    """ValueError for a momentum or beta outside [0, 1) and for a negative weight decay."""
    if momentum is not None and not 0 <= momentum < 1:
        raise UserError(f"Optimizer.momentum is {momentum}; the share of the old velocity lies in [0, 1), 0.9 is "
                        "usual")
    if betas and not (len(betas) == 2 and all(0 <= beta < 1 for beta in betas)):
        raise UserError(f"Optimizer.betas is {list(betas)}; expected two shares in [0, 1), [0.9, 0.999] is usual")
    if weight_decay < 0:
        raise UserError(f"Optimizer.weight_decay is {weight_decay}; it is at least 0, and 1e-6 in SwAV's recipes")


def check_rates(**rates: Optional[float]) -> None:
    """ValueError for a negative learning rate; `rates` are named by their keys below Optimizer.lr."""
    for key, rate in rates.items():
        if rate is not None and rate < 0:
            raise UserError(f"Optimizer.lr.{key} is {rate}; a learning rate is at least 0")
