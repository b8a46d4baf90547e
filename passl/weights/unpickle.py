"""A pickle machine that builds plain values and never runs code from the file.

`pickle.Unpickler` with a restricted `find_class` still allocates what a file claims (a 4 GiB string, memo slot
2**31), so the opcodes are interpreted here, over a memory map: every claimed size is checked against the bytes that
are left, large payloads stay views of the map, and a name is never imported: it is looked up in `Constructors`, a
closed table of functions. An unlisted name is an `UnsafeCheckpoint` that tells it, unless the caller listed it as
*inert*: then it becomes an `Inert` record that holds the arguments and does nothing.
"""
from __future__ import annotations

import struct
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Tuple

from .errors import CheckpointError, UnsafeCheckpoint
from .opcodes import OPERATIONS
from .pickle_values import MARK, MAX_OPCODES, Budget, Building, Inert, LongText, Mark, Name

# hashable by identity, but changed later by BUILD: never a dictionary key
_NOT_KEYS = (Mark, LongText, Building, Inert)


class PickleMachine:
    """Interpret one pickle of protocol 2 to 5 that starts at `position` of `data`.

    constructors: full name -> function of (arguments, budget), or a plain constant.
    persistent: called with a persistent id; None refuses them.
    inert: names that become `Inert` records.
    """

    def __init__(self, data: memoryview, constructors: Dict[str, Any], position: int = 0,
                 persistent: Optional[Callable[[Any], Any]] = None, inert: FrozenSet[str] = frozenset(),
                 budget: Optional[Budget] = None):
        self.data = data
        self.position = position
        self.constructors = constructors
        self.persistent = persistent
        self.inert = inert
        self.budget = budget or Budget(len(data))
        self.stack: List[Any] = []
        self.memo: Dict[int, Any] = {}
        self.steps = 0  # opcodes so far: no honest file has many more nodes

    def run(self) -> Tuple[Any, int]:
        """The object and the position after its STOP opcode; CheckpointError names the offset of the bad opcode."""
        data, size = self.data, len(self.data)
        start = self.position
        try:
            for self.steps in range(MAX_OPCODES):
                start = self.position
                if start >= size:
                    raise CheckpointError("the pickle ends without its STOP opcode (truncated file)")
                code = data[start]
                self.position = start + 1
                if code == 0x2E:  # STOP
                    return self.finished(self.stack.pop()), self.position
                operation = OPERATIONS[code]
                if operation is None:
                    raise CheckpointError(f"pickle opcode 0x{code:02x} is not one that weight files use")
                operation(self)
        except CheckpointError as error:
            raise type(error)(f"{error} (pickle opcode at byte {start})") from None
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError, struct.error,
                RecursionError) as error:
            raise CheckpointError(f"damaged pickle: {type(error).__name__}: {str(error)[:120]} "
                                  f"(opcode at byte {start})") from None
        raise UnsafeCheckpoint(f"the pickle has more than {MAX_OPCODES} opcodes")

    # -- reading -------------------------------------------------------------------------------------------------
    def take(self, count: int) -> memoryview:
        start = self.position
        if count < 0 or count > len(self.data) - start:
            raise CheckpointError(f"claims {count} bytes where the file has {len(self.data) - start} left")
        self.position = start + count
        return self.data[start:self.position]

    def unsigned(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        limit = min(len(self.data), self.position + 512)
        line = bytes(self.data[self.position:limit])
        end = line.find(b"\n")
        if end < 0:
            raise CheckpointError("a name without an end")
        self.position += end + 1
        return line[:end].decode("utf-8")

    # -- stack ---------------------------------------------------------------------------------------------------
    def group(self) -> List[Any]:
        """Entries above the last mark, which goes too."""
        stack = self.stack
        for index in range(len(stack) - 1, -1, -1):
            if stack[index] is MARK:
                group = stack[index + 1:]
                del stack[index:]
                return group
        raise CheckpointError("a group without its mark")

    @staticmethod
    def finished(value):
        return value.value if isinstance(value, Building) and value.value is not None else value

    def pop(self):
        return self.finished(self.stack.pop())

    def set_items(self, target, pairs: List[Any]) -> None:
        if not isinstance(target, dict):
            raise CheckpointError(f"sets items of a {type(target).__name__}")
        if len(pairs) % 2:
            raise CheckpointError("a dictionary key without its value")
        for key, value in zip(pairs[::2], pairs[1::2]):
            if isinstance(key, _NOT_KEYS):
                raise CheckpointError(f"a {type(key).__name__} as dictionary key")
            target[key] = self.finished(value)

    def look_up(self, path: str) -> Any:
        if path in self.constructors:
            found = self.constructors[path]
            return Name(path, found) if callable(found) else found
        if path in self.inert:
            return Name(path, lambda arguments, budget: Inert(path, arguments))
        raise UnsafeCheckpoint(f"the file asks for '{path[:120]}', which is not a plain value or array; nothing was "
                               "executed. If you trust the file and do not need that object, list the name as inert "
                               "(passl-convert --inert NAME, read(path, inert=[NAME]))")

    def call(self, function, arguments) -> None:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise CheckpointError("calls something that is not a listed constructor")
        try:
            self.stack.append(function.constructor(arguments, self.budget))
        except CheckpointError as error:
            raise type(error)(f"{function.path}: {error}") from None
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"{function.path} with unusable arguments: {str(error)[:120]}") from None
