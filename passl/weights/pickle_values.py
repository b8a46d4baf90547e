"""What the pickle machine handles besides plain values, and what a file may cost it."""
from __future__ import annotations

from typing import Any, Callable

from .errors import UnsafeCheckpoint

MAX_OPCODES = 8_000_000      # a training checkpoint with 1000 tensors needs about 100 thousand


class Inert:
    """An object of a class that is not ours to build: its name, arguments and state, as plain values."""

    __slots__ = ("name", "arguments", "state")

    def __init__(self, name: str, arguments: tuple = ()):
        self.name = name
        self.arguments = arguments
        self.state = None

    def __repr__(self):
        return f"Inert({self.name})"


class LongText:
    """UTF-8 text that has not been decoded: the array data of pickle protocol 2."""

    __slots__ = ("data",)

    def __init__(self, data: memoryview):
        self.data = data


class Building:
    """An object that a BUILD opcode completes (numpy arrays and dtypes); `value` is None until then."""

    value: Any = None

    def build(self, state) -> None:
        raise NotImplementedError


class Budget:
    """What one file may still cost: elements and bytes that constructors copy beyond the file's own size."""

    def __init__(self, file_size: int):
        self.elements = MAX_OPCODES
        self.bytes = 2 * file_size + (1 << 20)

    def charge(self, elements: int = 0, size: int = 0) -> None:
        self.elements -= elements
        self.bytes -= size
        if self.elements < 0 or self.bytes < 0:
            raise UnsafeCheckpoint("the pickle copies its own data again and again; it is built to exhaust memory")


Constructor = Callable[[tuple, Budget], Any]


class Name:
    """A looked-up global: a constructor of the allow-list, a constant, or an inert class."""

    __slots__ = ("path", "constructor")

    def __init__(self, path: str, constructor: Constructor):
        self.path = path
        self.constructor = constructor


class Mark:
    """Bottom of a group of stack entries."""

    __slots__ = ()


MARK = Mark()
