"""The two container formats of `torch.save`, read without PyTorch.

Zip (PyTorch >= 1.6): `<name>/data.pkl` whose persistent ids point at the stored records `<name>/data/<key>`.
Legacy stream (before, and every released SwAV file): pickles of a magic number, the protocol version, system facts, the
object and the list of storage keys, then each storage as an int64 element count and its raw little-endian bytes.

Tensors are views of the mapped file; bfloat16 is kept as its uint16 bit pattern (torch.uint16 itself is refused, so
uint16 always means bfloat16 in this package, as in Paddle).
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, List, Literal, Optional

import numpy as np

from passl.errors import CheckpointError, UnsafeCheckpoint
from passl.weights.formats.archive import Archive
from passl.weights.formats.constructors import CONSTRUCTORS, class_only, empty_array, one_of, shape_of
from passl.weights.formats.pickle_values import Budget, Name
from passl.weights.formats.tree import settle
from passl.weights.formats.unpickle import PickleMachine

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

# torch storage class -> (dtype name, numpy dtype); also the writer's table
STORAGES = {"FloatStorage": ("float32", "f4"), "HalfStorage": ("float16", "f2"), "BFloat16Storage": ("bfloat16", "u2"),
            "DoubleStorage": ("float64", "f8"), "LongStorage": ("int64", "i8"), "IntStorage": ("int32", "i4"),
            "ShortStorage": ("int16", "i2"), "CharStorage": ("int8", "i1"), "ByteStorage": ("uint8", "u1"),
            "BoolStorage": ("bool", "b1"), "ComplexFloatStorage": ("complex64", "c8"),
            "ComplexDoubleStorage": ("complex128", "c16")}
_DTYPE_OF_NAME = {name: np.dtype(code) for name, code in STORAGES.values()}
_DTYPE_OF_NAME.update(uint32=np.dtype("u4"), uint64=np.dtype("u8"))
_UNTYPED = ("torch.storage.UntypedStorage", "torch.UntypedStorage")


@dataclass(eq=False)
class StorageReference:
    """A storage by key; `dtype` is None for untyped storages, `start` is where a legacy view begins (elements)."""

    key: str
    dtype: Optional[np.dtype]
    count: int
    start: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * (self.dtype.itemsize if self.dtype is not None else 1)


class TensorReference:
    """A tensor before its storage is known: dtype, storage, and offset, shape and strides in elements."""

    __slots__ = ("storage", "dtype", "offset", "shape", "strides")

    def __init__(self, storage, dtype, offset, shape, strides):
        if not isinstance(storage, StorageReference) or not isinstance(dtype, np.dtype):
            raise CheckpointError("a tensor without a storage")
        self.storage, self.dtype = storage, dtype
        self.offset, = shape_of(offset)
        self.shape, self.strides = shape_of(shape), shape_of(strides)
        if len(self.shape) != len(self.strides):
            raise CheckpointError("shape and strides of different length")


def _no_lazy_views(metadata: tuple) -> None:
    """Refuse tensors whose stored numbers are still to be negated or conjugated; weights never are."""
    flags = metadata[0] if metadata else None
    if flags and (not isinstance(flags, dict) or any(flags.values())):
        raise CheckpointError("a conjugate or negative view of a tensor; save tensor.resolve_conj().resolve_neg()")


def _rebuild_tensor(arguments, budget):
    storage, offset, shape, strides = one_of(arguments, 4, 6, 7)[:4]
    _no_lazy_views(arguments[6:])
    return TensorReference(storage, storage.dtype, offset, shape, strides)


def _rebuild_tensor_v3(arguments, budget):
    storage, offset, shape, strides, _, _, dtype = one_of(arguments, 7, 8)[:7]
    _no_lazy_views(arguments[7:])
    kind = str(dtype).replace("torch.", "")
    if kind not in _DTYPE_OF_NAME:
        raise CheckpointError(f"tensors of dtype {str(dtype)[:40]} are not supported")
    return TensorReference(storage, _DTYPE_OF_NAME[kind], offset, shape, strides)


def _parameter(arguments, budget):
    tensor = one_of(arguments, 3, 4)[0]
    if not isinstance(tensor, TensorReference):
        raise CheckpointError("a parameter without a tensor")
    return tensor


TORCH_CONSTRUCTORS: Dict[str, Any] = {
    **CONSTRUCTORS,
    **{f"{module}.{storage}": class_only for storage in STORAGES for module in ("torch", "torch.cuda")},
    **dict.fromkeys(_UNTYPED, class_only),
    **{f"torch.{name}": f"torch.{name}" for name in (*_DTYPE_OF_NAME, "uint16", "complex32")},
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": lambda arguments, budget: shape_of(one_of(arguments, 1)[0]),
    "torch.device": lambda arguments, budget: ":".join(str(part)[:20] for part in one_of(arguments, 1, 2)),
}


class Storages:
    """Storages of one file: references while its pickle is read, byte views afterwards."""

    def __init__(self, budget: Budget):
        self.references: Dict[str, StorageReference] = {}
        self.views: Dict[str, memoryview] = {}
        self.byteorder: Literal["<", ">"] = "<"
        self.budget = budget

    def persistent(self, identity: Any) -> StorageReference:
        """Handle ('storage', class, key, location, element count[, legacy view])."""
        if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
            raise CheckpointError("an unknown persistent id")
        _, kind, key, _, count = identity[:5]
        name = kind.path if isinstance(kind, Name) else str(kind)
        storage_class = name.rsplit(".", 1)[-1]
        if storage_class in STORAGES:
            dtype: Optional[np.dtype] = np.dtype(STORAGES[storage_class][1])
        elif name in _UNTYPED:
            dtype = None
        else:
            raise CheckpointError(f"storage class '{name[:60]}' is not supported")
        if not isinstance(key, str):
            raise CheckpointError("a storage key that is no text")
        count, = shape_of(count)
        root = self.references.setdefault(key, StorageReference(key, dtype, count))
        if root.dtype != dtype or root.count != count:
            raise CheckpointError(f"storage '{key[:40]}' is described in two ways")
        if len(identity) == 6 and identity[5] is not None:
            _, start, size = one_of(identity[5], 3)
            start, size = shape_of((start, size))
            return StorageReference(key, dtype, size, start)
        return root

    def resolve(self, node: Any) -> Optional[Any]:
        """The array of a tensor reference: a view of the file, after all its claims were checked."""
        if not isinstance(node, TensorReference):
            return node.path if isinstance(node, Name) else None
        view = self.views.get(node.storage.key)
        if view is None:
            raise CheckpointError(f"storage '{node.storage.key[:40]}' is not in the file")
        itemsize, count = node.dtype.itemsize, math.prod(node.shape)
        first = node.storage.start + node.offset
        strides = [stride if size > 1 else 0 for size, stride in zip(node.shape, node.strides)]  # the rest is unused
        last = first + sum((size - 1) * stride for size, stride in zip(node.shape, strides))
        if count and (last + 1) * itemsize > len(view):
            raise CheckpointError(f"a tensor of shape {node.shape} reaches element {last} of a storage of "
                                  f"{len(view) // itemsize}")
        self.budget.claim(count * itemsize)  # tensors may overlap, within reason
        if not count:
            return empty_array(node.shape, node.dtype)
        flat = np.frombuffer(view[first * itemsize:(last + 1) * itemsize], node.dtype.newbyteorder(self.byteorder))
        array = np.lib.stride_tricks.as_strided(flat, node.shape, [stride * itemsize for stride in strides],
                                                writeable=False)
        return array if array.dtype.isnative else array.astype(node.dtype)


def read_zip(data: memoryview, archive: Archive, inert: FrozenSet[str]) -> Any:
    """The object of a zip archive written by `torch.save`."""
    records = [name for name in archive.names() if name.rsplit("/", 1)[-1] == "data.pkl"]
    if len(records) != 1:
        raise CheckpointError(f"a PyTorch archive has one data.pkl, this one has {len(records)}")
    prefix = records[0][:-len("data.pkl")]
    if prefix + "constants.pkl" in archive.names():
        raise UnsafeCheckpoint("a TorchScript archive holds code, not a state dict; save model.state_dict() instead")
    budget = Budget(len(data))
    storages = Storages(budget)
    if prefix + "byteorder" in archive.names():
        storages.byteorder = ">" if bytes(archive.read(prefix + "byteorder")) == b"big" else "<"
    machine = PickleMachine(archive.read(records[0]), TORCH_CONSTRUCTORS, budget, 0, storages.persistent, inert)
    tree, _ = machine.run()
    for key, reference in storages.references.items():
        name = f"{prefix}data/{key}"
        if name not in archive.names():
            raise CheckpointError(f"storage '{key[:40]}' is not in the archive")
        view = archive.read(name)
        if len(view) != reference.size:
            raise CheckpointError(f"storage '{key[:40]}' claims {reference.size} bytes, its record has "
                                  f"{len(view)}")
        storages.views[key] = view
    return settle(tree, storages.resolve, budget)


def is_legacy(data: memoryview) -> bool:
    """True when the file begins with the pickled magic number of the legacy stream."""
    magic = LEGACY_MAGIC.to_bytes(10, "little")
    return bytes(data[:32]).find(b"\x8a\x0a" + magic) >= 0  # protocols 4 and 5 put a frame before it


def read_legacy(data: memoryview, inert: FrozenSet[str]) -> Any:
    """The object of a legacy stream."""
    budget, position = Budget(len(data)), 0
    header: List[Any] = []
    for _ in range(3):
        value, position = PickleMachine(data, CONSTRUCTORS, budget, position).run()
        header.append(value)
    if header[0] != LEGACY_MAGIC or header[1] != LEGACY_PROTOCOL:
        raise CheckpointError(f"legacy PyTorch stream of unknown protocol {str(header[1])[:40]}")
    storages = Storages(budget)
    machine = PickleMachine(data, TORCH_CONSTRUCTORS, budget, position, storages.persistent, inert)
    tree, position = machine.run()
    keys, position = PickleMachine(data, CONSTRUCTORS, budget, position).run()
    if not isinstance(keys, list):
        raise CheckpointError("the legacy stream has no list of storages")
    for key in keys:
        if not isinstance(key, str) or key not in storages.references:
            raise CheckpointError(f"storage {str(key)[:40]} is in the file but no tensor uses it")
        reference = storages.references[key]
        count = int.from_bytes(data[position:position + 8], "little", signed=True)
        size = reference.size
        if count != reference.count or size > len(data) - position - 8:
            raise CheckpointError(f"storage '{key[:40]}' claims {reference.count} elements; the file states {count} "
                                  f"and has {max(0, len(data) - position - 8)} bytes left")
        storages.views[key] = data[position + 8:position + 8 + size]
        position += 8 + size
    return settle(tree, storages.resolve, budget)
