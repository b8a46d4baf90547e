"""Weight files written without the framework that reads them: PyTorch zip, Paddle pickle, safetensors.

The pickles are emitted opcode by opcode: arrays stream from their memory into the file (no second copy of the model),
and the result does not depend on the installed numpy (numpy 2 would pickle names that numpy 1 cannot import).
Every file is written beside its target and renamed.
"""
from __future__ import annotations

import io
import json
import struct
import zipfile
from collections import OrderedDict
from typing import IO, Any, Callable, Dict, List, Mapping, Optional

import numpy as np

from passl.files import written_aside
from passl.weights.formats.array_files import SAFETENSORS
from passl.weights.formats.torch_files import STORAGES

_STORAGE_OF = {np.dtype(code): name for name, (_, code) in STORAGES.items()}
_SAFETENSORS_OF = {np.dtype(code): name for name, code in SAFETENSORS.items()}
_ALIGNMENT = 64  # what PyTorch aligns records to, so that they can be mapped


class PickleWriter:
    """Emit a pickle of dictionaries, lists, tuples and plain values; `leaf(writer, array)` emits an array."""

    def __init__(self, file: IO[bytes], protocol: int, leaf: Callable[["PickleWriter", np.ndarray], None]):
        self.write = file.write
        self.leaf = leaf
        self.write(bytes([0x80, protocol]))

    def name(self, module: str, name: str) -> None:
        """A global, as text."""
        self.write(f"c{module}\n{name}\n".encode())

    def text(self, value: str) -> None:
        """A string in UTF-8."""
        data = value.encode("utf-8")
        self.write(b"X" + struct.pack("<I", len(data)) + data)

    def integer(self, value: int) -> None:
        """A whole number in the shortest opcode that holds it."""
        if 0 <= value < 256:
            self.write(b"K" + bytes([value]))
        elif -(1 << 31) <= value < 1 << 31:
            self.write(b"J" + struct.pack("<i", value))
        else:
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.write(b"\x8a" + bytes([len(data)]) + data)

    def tuple(self, values) -> None:
        """A tuple of anything `value` takes."""
        self.write(b"(")
        for value in values:
            self.value(value)
        self.write(b"t")

    def value(self, value: Any) -> None:
        """Whatever it is; TypeError for what weight files do not hold."""
        if isinstance(value, np.ndarray):
            self.leaf(self, value)
        elif value is None:
            self.write(b"N")
        elif isinstance(value, (bool, np.bool_)):
            self.write(b"\x88" if value else b"\x89")
        elif isinstance(value, (int, np.integer)):
            self.integer(int(value))
        elif isinstance(value, (float, np.floating)):
            self.write(b"G" + struct.pack(">d", value))
        elif isinstance(value, str):
            self.text(value)
        elif isinstance(value, tuple):
            self.tuple(value)
        elif isinstance(value, list):
            self.write(b"](")
            for item in value:
                self.value(item)
            self.write(b"e")
        elif isinstance(value, Mapping):
            if isinstance(value, OrderedDict):
                self.name("collections", "OrderedDict")
                self.write(b")R(")
            else:
                self.write(b"}(")
            for key, item in value.items():
                self.value(key)
                self.value(item)
            self.write(b"u")
        else:
            raise TypeError(f"cannot write a {type(value).__name__} into a weight file")


def dump(tree: Any, file: IO[bytes], protocol: int, leaf: Callable[[PickleWriter, np.ndarray], None]) -> None:
    """One whole pickle."""
    writer = PickleWriter(file, protocol, leaf)
    writer.value(tree)
    writer.write(b".")


def write_paddle(path: str, tree: Mapping[str, Any]) -> None:
    """The file `paddle.save(tree, path)` writes (pickle protocol 4 of numpy arrays); readable by Paddle with numpy 1
    and 2, and by detectron2 as `.pkl`."""
    with written_aside(path) as file:
        dump(tree, file, 4, _numpy_leaf)


def _numpy_leaf(writer: PickleWriter, array: np.ndarray) -> None:
    array = np.ascontiguousarray(array).reshape(array.shape)
    writer.name("numpy.core.multiarray", "_reconstruct")
    writer.name("numpy", "ndarray")
    writer.write(b"(K\x00tC\x01b\x87R(K\x01")
    writer.tuple(array.shape)
    writer.name("numpy", "dtype")
    writer.write(b"(")
    writer.text(array.dtype.str[1:])
    writer.write(b"\x89\x88tR(K\x03")
    writer.text("<" if array.dtype.itemsize > 1 else "|")
    writer.write(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89\x8e" + struct.pack("<Q", array.nbytes))
    writer.write(_bytes_of(array))
    writer.write(b"tb")


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def torch_leaf(storages: List[np.ndarray]) -> Callable[[PickleWriter, np.ndarray], None]:
    """Emit arrays as PyTorch tensors whose storages are appended to `storages`; uint16 becomes bfloat16."""
    def leaf(writer: PickleWriter, array: np.ndarray) -> None:
        if array.dtype not in _STORAGE_OF:
            raise TypeError(f"PyTorch has no storage for numpy {array.dtype}")
        strides, step = [], 1
        for size in reversed(array.shape):
            strides.append(step)
            step *= size
        writer.name("torch._utils", "_rebuild_tensor_v2")
        writer.write(b"((")
        writer.text("storage")
        writer.name("torch", _STORAGE_OF[array.dtype])
        writer.text(str(len(storages)))
        writer.text("cpu")
        writer.integer(array.size)
        writer.write(b"tQ")
        writer.integer(0)
        writer.tuple(array.shape)
        writer.tuple(strides[::-1])
        writer.write(b"\x89")
        writer.name("collections", "OrderedDict")
        writer.write(b")RtR")
        storages.append(array)
    return leaf


def write_torch(path: str, tree: Mapping[str, Any]) -> None:
    """A zip archive as `torch.save` writes it; loads with `torch.load(path, weights_only=True)`."""
    storages: List[np.ndarray] = []
    structure = io.BytesIO()
    dump(tree, structure, 2, torch_leaf(storages))
    with written_aside(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _record(archive, "data.pkl", structure.getvalue())
        _record(archive, "byteorder", b"little")
        for key, array in enumerate(storages):
            _record(archive, f"data/{key}", _bytes_of(np.ascontiguousarray(array)))
        _record(archive, "version", b"3\n")


def _record(archive: zipfile.ZipFile, name: str, content) -> None:
    member = zipfile.ZipInfo("archive/" + name)
    header = 30 + len(member.filename) + 20 + 4  # fixed part, name, zip64 sizes, our padding's own header
    assert archive.fp is not None, "open for writing"
    padding = -(archive.fp.tell() + header) % _ALIGNMENT
    member.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    with archive.open(member, "w", force_zip64=True) as record:
        record.write(content)


def write_safetensors(path: str, tensors: Mapping[str, np.ndarray], metadata: Optional[Dict[str, str]] = None) -> None:
    """A `.safetensors` file; uint16 becomes BF16."""
    header: Dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, array in tensors.items():
        if array.dtype not in _SAFETENSORS_OF:
            raise TypeError(f"safetensors has no type for numpy {array.dtype} ('{name}')")
        header[name] = {"dtype": _SAFETENSORS_OF[array.dtype], "shape": list(array.shape),
                        "data_offsets": [position, position + array.nbytes]}
        position += array.nbytes
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with written_aside(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(_bytes_of(np.ascontiguousarray(array)))
