"""When SeLa computes its labels anew (Asano et al. 2020, its released training loop)."""
from __future__ import annotations

import math
from typing import List


def label_steps(count: int, steps: int, power: float = 2.0) -> List[int]:
    """Steps of a run of `steps` before which labels are optimised, ascending, `count` of them.

    Optimisation j of `count` stands before step (steps - 1) (j / (count - 1))^power, rounded up: the first before the
    first step, the last before the last one. With power 2 they are dense at first, while the network changes fast, and
    ever further apart.

    The original counts images: (E + 1.01) N (j / (count - 1))^2, where its `--epochs E` runs E + 1 epochs. Here
    Global.epochs is what is run and a dropped last batch is no part of it, so the same curve is laid over the steps
    there are; on ImageNet with batch 256 and 401 epochs the two differ by less than 0.03 epochs. Several optimisations
    of a short run may share a step.
    """
    if count == 1:
        return [0]
    places = [(steps - 1) * (number / (count - 1)) ** power for number in range(count)]
    return [math.ceil(round(place, 6)) for place in places]  # 3.0000000004 is 3
