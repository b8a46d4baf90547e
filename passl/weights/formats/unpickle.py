"""A pickle machine that builds plain values and never runs code from the file.

`pickle.Unpickler` with a restricted `find_class` still allocates what a file claims (a 4 GiB string, memo slot
2**31), so the opcodes are interpreted here, over a memory map: every claimed size is checked against the bytes that
are left, large payloads stay views of the map, and a name is never imported: it is looked up in `Constructors`, a
closed table of functions. Unlisted names end in one `UnsafeCheckpoint` that tells them all, unless the caller listed
them as *inert*: an object of theirs becomes an `Inert` record that swallows what the file puts into it.
"""
from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, Optional, Tuple

from passl.errors import CheckpointError, UnsafeCheckpoint
from passl.weights.formats.opcodes import OPERATIONS
from passl.weights.formats.pickle_values import ENTRY, MARK, OBJECT, Budget, Building, Inert, Name, checked_key

MAX_OPCODES = 8_000_000  # a training checkpoint with 1000 tensors needs about 100 thousand
# classes of configurations that many trainers pickle beside their weights
_ALWAYS_INERT = re.compile(r"(?:omegaconf|typing)\.|argparse\.Namespace$")
_LAYERS = ("torch.nn.modules.", "torch.nn.parallel.", "torchvision.models.", "paddle.nn.")  # modules of classes
_NAMES_TOLD = 20


@dataclass
class PickleMachine:
    """Interpret one pickle of protocol 2 to 5 that starts at `position` of `data`.

    constructors: full name -> function of (arguments, budget), or a plain constant.
    persistent: called with a persistent id; None refuses them.
    inert: names that become `Inert` records, besides those of configurations (omegaconf, argparse).
    budget: what the file may cost, shared by the pickles of one file.
    """

    data: memoryview
    constructors: Mapping[str, Any]
    budget: Budget
    position: int = 0
    persistent: Optional[Callable[[Any], Any]] = None
    inert: FrozenSet[str] = frozenset()
    stack: List[Any] = field(default_factory=list)
    memo: Dict[int, Any] = field(default_factory=dict)
    refused: List[str] = field(default_factory=list)

    def run(self) -> Tuple[Any, int]:
        """The object and the position after its STOP opcode.

        UnsafeCheckpoint tells every name that is not listed; CheckpointError the offset of a bad opcode.
        """
        try:
            result = self._interpret()
        except CheckpointError:
            if not self.refused:  # else the names matter more than what went wrong in the records that replaced them
                raise
        if self.refused:
            names = ", ".join(f"'{name[:120]}'" for name in self.refused[:_NAMES_TOLD])
            more = f" and {len(self.refused) - _NAMES_TOLD} more" if len(self.refused) > _NAMES_TOLD else ""
            if any(name.startswith(_LAYERS) for name in self.refused):
                raise UnsafeCheckpoint(f"the file holds a whole model ({names}{more}), not its weights; nothing was "
                                       "executed. In the program that made it, save model.state_dict() instead of "
                                       "model") from None
            raise UnsafeCheckpoint(f"the file asks for {names}{more}, which is not a plain value or array; nothing was "
                                   "executed. If you trust the file and do not need these objects, list the names as "
                                   "inert (passl-convert --inert NAME, read(path, inert=[NAME, ...]))")
        return result

    def _interpret(self) -> Tuple[Any, int]:
        data, size = self.data, len(self.data)
        start = self.position
        try:
            for _ in range(MAX_OPCODES):
                start = self.position
                if start >= size:
                    raise CheckpointError("the pickle ends without its STOP opcode (truncated file)")
                code = data[start]
                self.position = start + 1
                if code == 0x2E:  # STOP
                    return self.finished(self.stack.pop()), self.position
                operation = OPERATIONS.get(code)
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
        """The next `count` bytes, which must exist."""
        start = self.position
        if count < 0 or count > len(self.data) - start:
            raise CheckpointError(f"claims {count} bytes where the file has {len(self.data) - start} left")
        self.position = start + count
        return self.data[start:self.position]

    def unsigned(self, width: int) -> int:
        """A little-endian number of `width` bytes."""
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        """Text up to the end of the line: half of a name."""
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
        """The array or dtype of a completed Building, anything else as it is."""
        return value.value if isinstance(value, Building) and value.value is not None else value

    def pop(self):
        """The top of the stack, finished."""
        return self.finished(self.stack.pop())

    def keep(self, index: int) -> None:
        """Put the top of the stack into the memo."""
        if index not in self.memo:
            self.budget.charge(objects=2 * ENTRY)
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        """Push what the memo has."""
        self.stack.append(self.finished(self.memo[index]))

    def set_items(self, pairs: List[Any]) -> None:
        """Put key, value, key, value, ... into the dictionary on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, Inert):
            return
        if not isinstance(target, dict):
            raise CheckpointError(f"sets items of a {type(target).__name__}")
        if len(pairs) % 2:
            raise CheckpointError("a dictionary key without its value")
        self.budget.charge(objects=ENTRY * len(pairs) // 2)
        for key, value in zip(pairs[::2], pairs[1::2]):
            key = self.finished(key)
            if not isinstance(key, Inert):  # an entry of somebody's configuration
                target[checked_key(key)] = self.finished(value)

    def look_up(self, path: str) -> Any:
        """What stands for a global: a constructor of the table, a constant, or a maker of inert records."""
        self.budget.charge(objects=OBJECT)
        if path in self.constructors:
            found = self.constructors[path]
            return Name(path, found) if callable(found) else found
        if path not in self.inert and not _ALWAYS_INERT.match(path) and path not in self.refused:
            if len(self.refused) == 10 * _NAMES_TOLD:
                raise UnsafeCheckpoint("the file asks for hundreds of objects")
            self.refused.append(path)
        return Name(path, lambda arguments, budget: Inert(path))

    def call(self, function, arguments) -> None:
        """Push what a listed constructor makes of its arguments."""
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise CheckpointError("calls something that is not a listed constructor")
        self.budget.charge(objects=OBJECT)
        try:
            self.stack.append(function.constructor(arguments, self.budget))
        except CheckpointError as error:
            raise type(error)(f"{function.path}: {error}") from None
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"{function.path} with unusable arguments: {str(error)[:120]}") from None
