"""The pickle opcodes that weight files use (protocols 2 to 5), as functions of the machine.

Missing on purpose: the text opcodes of protocols 0 and 1, INST, OBJ, EXT*, the out-of-band buffers of protocol 5.
"""
from __future__ import annotations

import struct
from typing import Any, Callable, List, Optional

from passl.errors import CheckpointError, UnsafeCheckpoint
from passl.weights.formats.pickle_values import ENTRY, MARK, OBJECT, SLOT, Building, Inert, LongText, checked_key

VIEW_FROM = 256              # payloads of at least so many bytes stay views of the file
MAX_TEXT = 1 << 20           # longer texts exist only as array data of pickle protocol 2
MAX_INTEGER_BYTES = 64

OPERATIONS: List[Optional[Callable]] = [None] * 256


def _opcode(*codes: int):
    def decorate(function):
        for code in codes:
            OPERATIONS[code] = function
        return function
    return decorate


def _constant(code: int, make: Callable[[], Any]) -> None:
    OPERATIONS[code] = lambda machine: machine.stack.append(make())


for _code, _make in ((ord("N"), lambda: None), (0x88, lambda: True), (0x89, lambda: False), (ord(")"), tuple),
                     (ord("("), lambda: MARK)):
    _constant(_code, _make)


def _container(code: int, make: Callable[[], Any]) -> None:
    def push(machine):
        machine.budget.charge(objects=OBJECT)
        machine.stack.append(make())
    OPERATIONS[code] = push


for _code, _kind in ((ord("]"), list), (ord("}"), dict), (0x8F, set)):
    _container(_code, _kind)


def _number(code: int, layout: str) -> None:
    reader = struct.Struct(layout)
    OPERATIONS[code] = lambda machine: machine.stack.append(reader.unpack(machine.take(reader.size))[0])


for _code, _layout in ((ord("J"), "<i"), (ord("K"), "<B"), (ord("M"), "<H"), (ord("G"), ">d")):
    _number(_code, _layout)


def _long(width: int):
    def read(machine):
        size = machine.unsigned(width)
        if size > MAX_INTEGER_BYTES:
            raise UnsafeCheckpoint(f"an integer of {size} bytes")
        machine.stack.append(int.from_bytes(machine.take(size), "little", signed=True))
    return read


def _text(width: int):
    def read(machine):
        payload = machine.take(machine.unsigned(width))
        machine.stack.append(LongText(payload) if len(payload) > MAX_TEXT
                             else str(payload, "utf-8", "surrogatepass"))
    return read


def _bytes(width: int):
    def read(machine):
        payload = machine.take(machine.unsigned(width))
        machine.stack.append(payload if len(payload) >= VIEW_FROM else bytes(payload))
    return read


def _python2_string(width: int):
    """Python 2 wrote names and array data alike as byte strings: names decode, array data does not matter."""
    def read(machine):
        payload = machine.take(machine.unsigned(width))
        try:
            machine.stack.append(str(payload, "ascii") if len(payload) <= MAX_TEXT else payload)
        except UnicodeDecodeError:
            machine.stack.append(payload)
    return read


for _code, _reader in ((0x8A, _long(1)), (0x8B, _long(4)),
                       (ord("X"), _text(4)), (0x8C, _text(1)), (0x8D, _text(8)),
                       (ord("B"), _bytes(4)), (ord("C"), _bytes(1)), (0x8E, _bytes(8)), (0x96, _bytes(8)),
                       (ord("U"), _python2_string(1)), (ord("T"), _python2_string(4))):
    OPERATIONS[_code] = _reader


@_opcode(0x80)
def _protocol(machine):
    version = machine.unsigned(1)
    if not 2 <= version <= 5:
        raise CheckpointError(f"pickle protocol {version}; weight files use 2 to 5")


@_opcode(0x95)
def _frame(machine):
    if machine.unsigned(8) > len(machine.data) - machine.position:
        raise CheckpointError("a frame longer than the file")


@_opcode(ord("0"))
def _drop(machine):
    machine.stack.pop()


@_opcode(ord("2"))
def _duplicate(machine):
    machine.stack.append(machine.stack[-1])


@_opcode(ord("1"))
def _drop_group(machine):
    machine.group()


@_opcode(ord("q"))
def _put(machine):
    machine.keep(machine.unsigned(1))


@_opcode(ord("r"))
def _long_put(machine):
    machine.keep(machine.unsigned(4))


@_opcode(0x94)
def _memoize(machine):
    machine.keep(len(machine.memo))


@_opcode(ord("h"))
def _get(machine):
    machine.stack.append(machine.finished(machine.memo[machine.unsigned(1)]))


@_opcode(ord("j"))
def _long_get(machine):
    machine.stack.append(machine.finished(machine.memo[machine.unsigned(4)]))


@_opcode(ord("a"))
def _append(machine):
    _extend(machine.stack, [machine.pop()])


@_opcode(ord("e"))
def _appends(machine):
    group = [machine.finished(value) for value in machine.group()]
    _extend(machine.stack, group)


def _extend(stack, values):
    target = stack[-1]
    if isinstance(target, list):
        target.extend(values)
    elif not isinstance(target, Inert):
        raise CheckpointError(f"appends to a {type(target).__name__}")


@_opcode(ord("s"))
def _set_item(machine):
    value, key = machine.pop(), machine.pop()
    machine.set_items(machine.stack[-1], [key, value])


@_opcode(ord("u"))
def _set_items(machine):
    pairs = machine.group()
    machine.set_items(machine.stack[-1], pairs)


@_opcode(0x90)
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


@_opcode(0x91)
def _frozen_set(machine):
    machine.budget.charge(objects=OBJECT)
    machine.stack.append(frozenset(_elements(machine, machine.group())))


@_opcode(ord("t"))
def _tuple(machine):
    group = machine.group()
    machine.budget.charge(objects=OBJECT + SLOT * len(group))
    machine.stack.append(tuple(map(machine.finished, group)))


@_opcode(0x85, 0x86, 0x87)
def _short_tuple(machine):
    count = machine.data[machine.position - 1] - 0x84
    if len(machine.stack) < count or any(value is MARK for value in machine.stack[-count:]):
        raise CheckpointError("a tuple of missing entries")
    values = tuple(machine.finished(value) for value in machine.stack[-count:])
    del machine.stack[-count:]
    machine.budget.charge(objects=OBJECT)
    machine.stack.append(values)


@_opcode(ord("c"))
def _global(machine):
    module = machine.line()
    machine.stack.append(machine.look_up(f"{module}.{machine.line()}"))


@_opcode(0x93)
def _stack_global(machine):
    name, module = machine.stack.pop(), machine.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise CheckpointError("a global whose name is no text")
    machine.stack.append(machine.look_up(f"{module}.{name}"))


@_opcode(ord("R"), 0x81)
def _reduce(machine):
    arguments, function = machine.pop(), machine.stack.pop()
    machine.call(function, arguments)


@_opcode(0x92)
def _new_object(machine):
    keywords, arguments, function = machine.pop(), machine.pop(), machine.stack.pop()
    if keywords:
        raise CheckpointError("an object built with keyword arguments")
    machine.call(function, arguments)


@_opcode(ord("Q"))
def _persistent(machine):
    if machine.persistent is None:
        raise UnsafeCheckpoint("a persistent id in a pickle that has no storages beside it")
    machine.budget.charge(objects=OBJECT)
    machine.stack.append(machine.persistent(machine.pop()))


@_opcode(ord("b"))
def _build(machine):
    state = machine.pop()
    target = machine.stack[-1]
    if isinstance(target, Building):
        target.build(state)
        machine.stack[-1] = machine.finished(target)
    elif not isinstance(target, (dict, Inert)):  # a state dict's `_metadata` attribute is version bookkeeping: dropped
        raise CheckpointError(f"sets the state of a {type(target).__name__}")
