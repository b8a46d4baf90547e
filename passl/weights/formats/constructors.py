"""The allow-list: every name a weight file may ask for, and the plain value it becomes.

Each constructor takes (arguments, budget) and returns a plain value or numpy array, or raises. None of them imports,
calls back into the file, or allocates more than the file holds without charging the budget.
"""
from __future__ import annotations

import math
from typing import Any, Dict, Optional, Tuple

import numpy as np

from passl.errors import CheckpointError, UnsafeCheckpoint
from passl.weights.formats.pickle_values import ENTRY, Budget, Building, LongText, checked_key

# numpy dtype codes that can be weights or counters; objects, strings and records cannot
_DTYPES = {code: np.dtype(code) for code in
           ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")}


def one_of(arguments: tuple, *lengths: int) -> tuple:
    """`arguments` when there are as many as one of `lengths`, or an error."""
    if len(arguments) not in lengths:
        raise CheckpointError(f"{len(arguments)} arguments instead of {' or '.join(map(str, lengths))}")
    return arguments


def shape_of(value: Any) -> Tuple[int, ...]:
    """A tuple of non-negative integers from a file, or an error."""
    sizes = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if len(sizes) > 32 or any(isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < 1 << 62 for n in sizes):
        raise CheckpointError(f"impossible shape {str(sizes)[:80]}")
    return sizes


NUMBERS = frozenset(_DTYPES.values())


class DtypeInTheMaking(Building):
    """numpy.dtype('f4', ...) whose BUILD state tells the byte order."""

    def __init__(self, code: str):
        if code not in _DTYPES:
            raise UnsafeCheckpoint(f"numpy dtype '{str(code)[:40]}' (only numbers and booleans are weights)")
        self.value = _DTYPES[code]

    def build(self, state) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise CheckpointError("unusable state of a numpy dtype")
        if state[2] is not None or state[3] is not None or state[4] is not None:
            raise UnsafeCheckpoint("a structured numpy dtype")
        self.value = self.value.newbyteorder(state[1])


class ArrayInTheMaking(Building):
    """numpy.ndarray whose BUILD state holds (version, shape, dtype, fortran order, data)."""

    def __init__(self, budget: Budget):
        self.budget = budget

    def build(self, state) -> None:
        _, shape, dtype, fortran, data = one_of(state, 5)
        self.value = array_from(raw_bytes(data, self.budget), dtype, shape, bool(fortran), self.budget)


def raw_bytes(data: Any, budget: Budget) -> memoryview:
    """The bytes behind a payload, whichever pickle protocol wrote it."""
    if isinstance(data, str):  # a Python 2 string that happened to be ASCII
        budget.charge(size=len(data))
        data = data.encode("latin-1")
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise CheckpointError(f"array data is a {type(data).__name__}")
    return memoryview(data)


def array_from(data: memoryview, dtype: Any, shape: Any, fortran: bool, budget: Optional[Budget] = None) -> np.ndarray:
    """A read-only view of `data`, or a copy of foreign byte order; the claimed shape must need exactly its bytes."""
    if not isinstance(dtype, np.dtype):
        raise CheckpointError("array without a dtype")
    shape = shape_of(shape)
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != len(data):
        raise CheckpointError(f"an array of shape {shape} and {dtype} claims {claimed} bytes, the file holds "
                              f"{len(data)}")
    if not len(data):
        return empty_array(shape, dtype)
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    if dtype.isnative:
        return array
    if budget is not None:
        budget.charge(size=array.nbytes)
    return array.astype(dtype.newbyteorder("="))


def empty_array(shape: Tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array without elements; its other sizes can still be beyond what numpy counts."""
    try:
        return np.zeros(shape, dtype.newbyteorder("="))
    except (ValueError, MemoryError, OverflowError):
        raise CheckpointError(f"impossible shape {str(shape)[:80]}") from None


def _reconstruct(arguments, budget):
    if getattr(arguments[0], "path", None) != "numpy.ndarray":
        raise UnsafeCheckpoint("an array of a foreign class")
    return ArrayInTheMaking(budget)


def _from_buffer(arguments, budget):
    data, dtype, shape, order = one_of(arguments, 4)
    return array_from(raw_bytes(data, budget), dtype, shape, order == "F", budget)


def _scalar(arguments, budget):
    dtype, data = one_of(arguments, 2)
    return array_from(raw_bytes(data, budget), dtype, (), False)[()].item()


def _encode(arguments, budget):
    """`_codecs.encode(text, 'latin1')` is how pickle protocol 2 of Python 3 spells bytes."""
    text, encoding = one_of(arguments, 2)
    if encoding not in ("latin1", "latin-1"):
        raise UnsafeCheckpoint("an encoding other than latin1")
    if isinstance(text, LongText):
        budget.charge(size=2 * len(text.data))
        return str(text.data, "utf-8").encode("latin-1")
    budget.charge(size=len(text))
    return text.encode("latin-1")


def _copied(kind):
    """Containers that older protocols build by a call: at most one argument, already a container."""
    def construct(arguments, budget):
        if not arguments:
            return kind()
        content, = one_of(arguments, 1)
        if not isinstance(content, (list, tuple, set, frozenset, dict)):
            raise CheckpointError(f"built from a {type(content).__name__}")
        budget.charge(objects=ENTRY * len(content))
        if kind is dict and not isinstance(content, dict):
            return {checked_key(key): value for key, value in content}
        return kind(map(checked_key, content)) if kind in (set, frozenset) else kind(content)
    return construct


def _default_dict(arguments, budget):
    one_of(arguments, 0, 1)
    return {}


def _bytes(arguments, budget):
    """bytes() and bytearray(): empty, a copy, or the (text, 'latin-1') form of protocol 2."""
    if len(arguments) == 2:
        return _encode(arguments, budget)
    if not arguments:
        return b""
    if not isinstance(arguments[0], (bytes, memoryview)):  # an integer would be a size to allocate
        raise UnsafeCheckpoint("bytes built from something other than bytes")
    return arguments[0]


def class_only(arguments, budget):
    """For names that are mentioned as a class (a default factory, a kind of storage) and never called."""
    raise UnsafeCheckpoint("called directly, which weight files do not do")


def _of_builtins(module: str) -> Dict[str, Any]:
    return {
        **{f"{module}.{kind.__name__}": _copied(kind) for kind in (list, tuple, dict, set, frozenset)},
        f"{module}.bytes": _bytes,
        f"{module}.bytearray": _bytes,
        f"{module}.complex": lambda arguments, budget: complex(*one_of(arguments, 2)),
        # default factories of a defaultdict
        **{f"{module}.{name}": class_only for name in ("int", "long", "float", "bool", "str")}}


def _of_numpy(package: str) -> Dict[str, Any]:
    return {f"{package}.multiarray._reconstruct": _reconstruct, f"{package}.multiarray.scalar": _scalar,
            f"{package}.numeric._frombuffer": _from_buffer}


CONSTRUCTORS: Dict[str, Any] = {
    "collections.OrderedDict": _copied(dict),
    "collections.Counter": _copied(dict),  # milestones of PyTorch's MultiStepLR
    "collections.defaultdict": _default_dict,
    "collections.deque": lambda arguments, budget: _copied(list)(one_of(arguments, 0, 1, 2)[:1], budget),
    "_codecs.encode": _encode,
    "numpy.ndarray": class_only,
    "numpy.dtype": lambda arguments, budget: DtypeInTheMaking(arguments[0]),
    **_of_builtins("builtins"),
    **_of_builtins("__builtin__"),
    **_of_numpy("numpy.core"),  # numpy 1
    **_of_numpy("numpy._core"),  # numpy 2
}
