"""The pickle opcodes that weight files use (protocols 2 to 5), as functions of the machine.

Missing on purpose: the text opcodes of protocols 0 and 1, INST, OBJ, EXT*, the out-of-band buffers of protocol 5.
"""
from __future__ import annotations

import pickle
import struct
from typing import Any, Callable, Dict

from passl.errors import CheckpointError, UnsafeCheckpoint
from passl.weights.formats.pickle_values import ENTRY, MARK, OBJECT, SLOT, Building, Inert, LongText, checked_key

VIEW_FROM = 256              # payloads of at least so many bytes stay views of the file
MAX_TEXT = 1 << 20           # longer texts exist only as array data of pickle protocol 2
MAX_INTEGER_BYTES = 64


def _push(make: Callable[[], Any], cost: int = 0):
    def push(machine):
        machine.budget.charge(objects=cost)
        machine.stack.append(make())
    return push


def _number(layout: str):
    reader = struct.Struct(layout)
    return lambda machine: machine.stack.append(reader.unpack(machine.take(reader.size))[0])


def _sized(width: int, value_of: Callable[[memoryview], Any]):
    """Push what `value_of` makes of a payload; its size, a number of `width` bytes, stands before it."""
    return lambda machine: machine.stack.append(value_of(machine.take(machine.unsigned(width))))


def _integer(payload: memoryview) -> int:
    if len(payload) > MAX_INTEGER_BYTES:
        raise UnsafeCheckpoint(f"an integer of {len(payload)} bytes")
    return int.from_bytes(payload, "little", signed=True)


def _text(payload: memoryview):
    return LongText(payload) if len(payload) > MAX_TEXT else str(payload, "utf-8", "surrogatepass")


def _bytes(payload: memoryview):
    return payload if len(payload) >= VIEW_FROM else bytes(payload)


def _python2_string(payload: memoryview):
    """Python 2 wrote names and array data alike as byte strings: names decode, array data does not matter."""
    try:
        return str(payload, "ascii") if len(payload) <= MAX_TEXT else payload
    except UnicodeDecodeError:
        return payload


def _protocol(machine):
    version = machine.unsigned(1)
    if not 2 <= version <= 5:
        raise CheckpointError(f"pickle protocol {version}; weight files use 2 to 5")


def _frame(machine):
    if machine.unsigned(8) > len(machine.data) - machine.position:
        raise CheckpointError("a frame longer than the file")


def _extend(machine, values):
    target = machine.stack[-1]
    if isinstance(target, list):
        target.extend(map(machine.finished, values))
    elif not isinstance(target, Inert):
        raise CheckpointError(f"appends to a {type(target).__name__}")


def _add_items(machine):
    group, target = machine.group(), machine.stack[-1]
    if isinstance(target, set):
        target.update(_elements(machine, group))
    elif not isinstance(target, Inert):
        raise CheckpointError(f"adds to a {type(target).__name__}")


def _elements(machine, group):
    """Set elements, without the objects of somebody's configuration."""
    machine.budget.charge(objects=ENTRY * len(group))
    return [checked_key(value) for value in map(machine.finished, group) if not isinstance(value, Inert)]


def _frozen_set(machine):
    machine.budget.charge(objects=OBJECT)
    machine.stack.append(frozenset(_elements(machine, machine.group())))


def _tuple(machine):
    group = machine.group()
    machine.budget.charge(objects=OBJECT + SLOT * len(group))
    machine.stack.append(tuple(map(machine.finished, group)))


def _short_tuple(machine, count):
    if len(machine.stack) < count or any(value is MARK for value in machine.stack[-count:]):
        raise CheckpointError("a tuple of missing entries")
    values = tuple(machine.finished(value) for value in machine.stack[-count:])
    del machine.stack[-count:]
    machine.budget.charge(objects=OBJECT)
    machine.stack.append(values)


def _global(machine):
    module = machine.line()
    machine.stack.append(machine.look_up(f"{module}.{machine.line()}"))


def _stack_global(machine):
    name, module = machine.stack.pop(), machine.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise CheckpointError("a global whose name is no text")
    machine.stack.append(machine.look_up(f"{module}.{name}"))


def _reduce(machine):
    arguments, function = machine.pop(), machine.stack.pop()
    machine.call(function, arguments)


def _new_object(machine):
    keywords, arguments, function = machine.pop(), machine.pop(), machine.stack.pop()
    if keywords:
        raise CheckpointError("an object built with keyword arguments")
    machine.call(function, arguments)


def _persistent(machine):
    if machine.persistent is None:
        raise UnsafeCheckpoint("a persistent id in a pickle that has no storages beside it")
    machine.budget.charge(objects=OBJECT)
    machine.stack.append(machine.persistent(machine.pop()))


def _build(machine):
    state = machine.pop()
    target = machine.stack[-1]
    if isinstance(target, Building):
        target.build(state)
        machine.stack[-1] = machine.finished(target)
    elif not isinstance(target, (dict, Inert)):  # a state dict's `_metadata` attribute is version bookkeeping: dropped
        raise CheckpointError(f"sets the state of a {type(target).__name__}")


OPERATIONS: Dict[int, Callable[[Any], Any]] = {code[0]: operation for code, operation in {
    pickle.NONE: _push(lambda: None),
    pickle.NEWTRUE: _push(lambda: True),
    pickle.NEWFALSE: _push(lambda: False),
    pickle.EMPTY_TUPLE: _push(tuple),
    pickle.MARK: _push(lambda: MARK),
    pickle.EMPTY_LIST: _push(list, OBJECT),
    pickle.EMPTY_DICT: _push(dict, OBJECT),
    pickle.EMPTY_SET: _push(set, OBJECT),
    pickle.BININT: _number("<i"),
    pickle.BININT1: _number("<B"),
    pickle.BININT2: _number("<H"),
    pickle.BINFLOAT: _number(">d"),
    pickle.LONG1: _sized(1, _integer),
    pickle.LONG4: _sized(4, _integer),
    pickle.SHORT_BINUNICODE: _sized(1, _text),
    pickle.BINUNICODE: _sized(4, _text),
    pickle.BINUNICODE8: _sized(8, _text),
    pickle.SHORT_BINBYTES: _sized(1, _bytes),
    pickle.BINBYTES: _sized(4, _bytes),
    pickle.BINBYTES8: _sized(8, _bytes),
    pickle.BYTEARRAY8: _sized(8, _bytes),
    pickle.SHORT_BINSTRING: _sized(1, _python2_string),
    pickle.BINSTRING: _sized(4, _python2_string),
    pickle.PROTO: _protocol,
    pickle.FRAME: _frame,
    pickle.POP: lambda machine: machine.stack.pop(),
    pickle.POP_MARK: lambda machine: machine.group(),
    pickle.DUP: lambda machine: machine.stack.append(machine.stack[-1]),
    pickle.BINPUT: lambda machine: machine.keep(machine.unsigned(1)),
    pickle.LONG_BINPUT: lambda machine: machine.keep(machine.unsigned(4)),
    pickle.MEMOIZE: lambda machine: machine.keep(len(machine.memo)),
    pickle.BINGET: lambda machine: machine.recall(machine.unsigned(1)),
    pickle.LONG_BINGET: lambda machine: machine.recall(machine.unsigned(4)),
    pickle.APPEND: lambda machine: _extend(machine, [machine.stack.pop()]),
    pickle.APPENDS: lambda machine: _extend(machine, machine.group()),
    pickle.SETITEM: lambda machine: machine.set_items([machine.stack.pop(), machine.stack.pop()][::-1]),
    pickle.SETITEMS: lambda machine: machine.set_items(machine.group()),
    pickle.ADDITEMS: _add_items,
    pickle.FROZENSET: _frozen_set,
    pickle.TUPLE: _tuple,
    pickle.TUPLE1: lambda machine: _short_tuple(machine, 1),
    pickle.TUPLE2: lambda machine: _short_tuple(machine, 2),
    pickle.TUPLE3: lambda machine: _short_tuple(machine, 3),
    pickle.GLOBAL: _global,
    pickle.STACK_GLOBAL: _stack_global,
    pickle.REDUCE: _reduce,
    pickle.NEWOBJ: _reduce,
    pickle.NEWOBJ_EX: _new_object,
    pickle.BINPERSID: _persistent,
    pickle.BUILD: _build,
}.items()}
