"""From what a pickle built to a tree of plain values and arrays."""
from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Tuple

import numpy as np

from passl.errors import CheckpointError, UnsafeCheckpoint
from passl.weights.formats.pickle_values import ENTRY, OBJECT, SLOT, Budget, Inert, Name

MAX_DEPTH = 64
MAX_NAME = 1000  # characters of a dotted name; nested keys of a megabyte would multiply
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def settle(value: Any, resolve: Callable[[Any], Any], budget: Budget) -> Any:
    """A copy of `value` of dictionaries, lists, tuples, sets, plain values and arrays only.

    `resolve` turns the container's own leaves (tensor references) into arrays and returns None for what it does not
    know. What is shared by reference is copied, so a few references to references could expand without end: the depth
    is bounded, and every copy is charged to the budget (UnsafeCheckpoint). Inert records come back empty.
    """
    def visit(node, depth):
        if depth > MAX_DEPTH:
            raise UnsafeCheckpoint("the file nests its containers without end")
        if isinstance(node, _PLAIN):
            return node
        if isinstance(node, np.ndarray):
            budget.claim(node.nbytes)
            return node
        if isinstance(node, dict):
            budget.charge(objects=OBJECT + ENTRY * len(node))
            return {key: visit(content, depth + 1) for key, content in node.items()}
        if isinstance(node, (set, frozenset)):  # of plain values: the machine saw to that
            budget.charge(objects=OBJECT + ENTRY * len(node))
            return type(node)(node)
        if isinstance(node, (list, tuple)):
            budget.charge(objects=OBJECT + SLOT * len(node))
            return type(node)([visit(content, depth + 1) for content in node])
        if isinstance(node, memoryview):
            budget.charge(size=len(node))
            return bytes(node)
        if isinstance(node, np.dtype):
            return str(node)
        if isinstance(node, Name):
            return node.path
        if isinstance(node, Inert):
            return node
        resolved = resolve(node)
        if resolved is None:
            raise CheckpointError(f"damaged pickle: a {type(node).__name__} was left unfinished")
        return resolved

    return visit(value, 0)


def flatten(tree: Mapping, prefix: str = "") -> Tuple[Dict[str, np.ndarray], Dict[str, Any]]:
    """Arrays of nested dictionaries under dotted names, and the leaves that are no arrays."""
    arrays: Dict[str, np.ndarray] = {}
    others: Dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if len(name) > MAX_NAME:
            raise CheckpointError(f"a name of {len(name)} characters: '{name[:60]}...'")
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
