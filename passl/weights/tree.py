"""From what a pickle built to a tree of plain values and arrays."""
from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Tuple

import numpy as np

from .errors import CheckpointError, UnsafeCheckpoint
from .pickle_values import Inert, Name

MAX_DEPTH = 64
MIN_NODES = 100_000
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def settle(value: Any, resolve: Callable[[Any], Any], steps: int) -> Any:
    """A copy of `value` of dictionaries, lists, tuples, sets, plain values and arrays only.

    `resolve` turns the container's own leaves (tensor references) into arrays and returns None for what it does not
    know. Containers shared by reference are copied, so a few references to references could expand without end:
    the depth is bounded, and the number of nodes by the `steps` the pickle took (UnsafeCheckpoint).
    """
    left = MIN_NODES + 4 * steps

    def visit(node, depth):
        nonlocal left
        left -= 1
        if left < 0 or depth > MAX_DEPTH:
            raise UnsafeCheckpoint("the file nests or repeats its containers without end")
        if isinstance(node, (np.ndarray,) + _PLAIN):
            return node
        if isinstance(node, dict):
            return {visit(key, depth + 1): visit(content, depth + 1) for key, content in node.items()}
        if isinstance(node, (list, tuple, set, frozenset)):
            return type(node)([visit(content, depth + 1) for content in node])
        if isinstance(node, memoryview):
            return bytes(node)
        if isinstance(node, np.dtype):
            return str(node)
        if isinstance(node, Name):
            return node.path
        if isinstance(node, Inert):
            record = Inert(node.name, visit(node.arguments, depth + 1))
            record.state = visit(node.state, depth + 1)
            return record
        resolved = resolve(node)
        if resolved is None:
            raise CheckpointError(f"damaged pickle: a {type(node).__name__} was left unfinished")
        return resolved

    try:
        return visit(value, 0)
    except TypeError as error:  # an unhashable key or set element
        raise CheckpointError(f"damaged pickle: {error}") from None


def flatten(tree: Mapping, prefix: str = "") -> Tuple[Dict[str, np.ndarray], Dict[str, Any]]:
    """Arrays of nested dictionaries under dotted names, and the leaves that are no arrays."""
    arrays: Dict[str, np.ndarray] = {}
    others: Dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif isinstance(value, Mapping) and value:
            inner_arrays, inner_others = flatten(value, name + ".")
            arrays.update(inner_arrays)
            if inner_arrays:
                others.update(inner_others)
            else:
                others[name] = value
        else:
            others[name] = value
    return arrays, others
