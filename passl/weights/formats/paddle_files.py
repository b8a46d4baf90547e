"""Files of `paddle.save`: one pickle of numpy arrays (`.pdparams`, `.pdopt`, `.pdstates`, older PASSL checkpoints).

Written by Paddle 1.8 to 3.x with pickle protocol 2 to 4 and numpy 1 or 2. Paddle stores a tensor as its numpy array, or
as the pair (name, array) inside lists and nested layers; protocols 2 and 3 cut arrays above 1 GiB into slices.
"""
from __future__ import annotations

import math
from typing import Any, Dict, FrozenSet

import numpy as np

from passl.errors import CheckpointError
from passl.weights.formats.constructors import CONSTRUCTORS, shape_of
from passl.weights.formats.pickle_values import Budget
from passl.weights.formats.tree import settle
from passl.weights.formats.unpickle import PickleMachine

_SLICES = "UnpackBigParamInfor@@"  # Paddle's spelling


def read_pickle(data: memoryview, inert: FrozenSet[str]) -> Any:
    """The object of a `paddle.save` file, arrays as views of the file."""
    machine = PickleMachine(data, CONSTRUCTORS, Budget(len(data)), inert=inert)
    tree, _ = machine.run()
    tree = _without_names(settle(tree, lambda node: None, machine.budget))
    return _joined(tree, machine.budget) if isinstance(tree, dict) and _SLICES in tree else tree


def _without_names(node: Any) -> Any:
    """(name, array) pairs of nested tensors become the array."""
    if isinstance(node, dict):
        return {key: _without_names(value) for key, value in node.items()}
    if isinstance(node, tuple) and len(node) == 2 and isinstance(node[0], str) and isinstance(node[1], np.ndarray):
        return node[1]
    if isinstance(node, (list, tuple)):
        return type(node)(_without_names(value) for value in node)
    return node


def _joined(tree: Dict[str, Any], budget: Budget) -> Dict[str, Any]:
    """Arrays above 1 GiB put together from their slices."""
    joined = dict(tree)
    try:
        for name, entry in joined.pop(_SLICES).items():
            parts = [joined.pop(part) for part in entry["slices"]]
            budget.charge(size=sum(part.nbytes for part in parts))  # entries may share one array
            shape = shape_of(entry["OriginShape"])
            if math.prod(shape) != sum(part.size for part in parts):
                raise CheckpointError(f"'{name}' claims shape {shape}, its slices have another size")
            joined[name] = np.concatenate([part.reshape(-1) for part in parts]).reshape(shape)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"unusable list of array slices: {str(error)[:80]}") from None
    return joined
