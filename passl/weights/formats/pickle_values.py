"""What the pickle machine handles besides plain values, and what a file may cost it."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable

from passl.errors import CheckpointError, UnsafeCheckpoint


@dataclass(eq=False)
class Inert:
    """An object of a class that is not ours to build: only its name. What the file puts into it is dropped."""

    name: str


@dataclass(eq=False)
class LongText:
    """UTF-8 text that has not been decoded: the array data of pickle protocol 2."""

    data: memoryview


class Building:
    """An object that a BUILD opcode completes (numpy arrays and dtypes); `value` is None until then."""

    value: Any = None

    def build(self, state) -> None:
        raise NotImplementedError


# what Python takes for them, in bytes and rounded up: a container or object, a dictionary or set entry, a list entry
OBJECT, ENTRY, SLOT = 250, 64, 16
_LARGEST_KEY = (1 << 61) - 1  # the modulus of Python's integer hash


class Budget:
    """What one file may still cost beyond its own size, in bytes; a file that costs more is an UnsafeCheckpoint.

    objects: Python objects, which a single byte of a pickle can make. size: copies of payloads. views: arrays over the
    file, which may share their bytes, but become files and layers of full size later.
    """

    def __init__(self, file_size: int):
        self.objects = 8 * file_size + (64 << 20)
        self.size = 2 * file_size + (1 << 20)
        self.views = 8 * file_size + (64 << 20)

    def charge(self, objects: int = 0, size: int = 0) -> None:
        self.objects -= objects
        self.size -= size
        if self.objects < 0 or self.size < 0:
            raise UnsafeCheckpoint("the pickle makes or copies far more than the file holds; it is built to exhaust "
                                   "memory")

    def claim(self, views: int) -> None:
        self.views -= views
        if self.views < 0:
            raise UnsafeCheckpoint("the tensors claim many times the bytes of the file")


def checked_key(key: Any) -> Any:
    """`key` when it may be a dictionary key or set element: text, short bytes, numbers, None.

    Tuples and integers beyond 2**61 are refused because a file can choose thousands with one hash, which makes every
    look-up walk through all of them. Python salts the hashes of text and bytes, and few floats share one.
    """
    if key is None or isinstance(key, (str, bytes, bool)) or (isinstance(key, int) and abs(key) < _LARGEST_KEY) or (
            isinstance(key, float) and math.isfinite(key)):
        return key
    shown = f"the number {str(key)[:24]}" if isinstance(key, (int, float)) else f"a {type(key).__name__}"
    raise CheckpointError(f"{shown} as dictionary key or set element, which weight files do not have")


@dataclass(eq=False)
class Name:
    """A looked-up global: a constructor of the allow-list, a constant, or an inert class."""

    path: str
    constructor: Callable[[tuple, Budget], Any]


MARK = object()  # bottom of a group of stack entries
