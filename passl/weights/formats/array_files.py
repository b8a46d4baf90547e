"""`.safetensors` and `.npz`: arrays without pickles. bfloat16 is kept as its uint16 bit pattern."""
from __future__ import annotations

import io
import json
from typing import Any, Dict, Tuple

import numpy as np

from passl.errors import CheckpointError, UnsafeCheckpoint
from passl.weights.formats.archive import Archive
from passl.weights.formats.constructors import NUMBERS, array_from, shape_of

SAFETENSORS = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
               "U8": "u1", "BOOL": "b1"}
_MAX_HEADER = 100 << 20
_NPY_HEADER = 1 << 14


def is_safetensors(data: memoryview) -> bool:
    """True when the first 8 bytes are the length of a JSON header that fits the file."""
    return len(data) > 10 and 2 <= int.from_bytes(data[:8], "little") <= len(data) - 8 and data[8] == 0x7B


def _no_duplicates(pairs):
    content = dict(pairs)
    if len(content) != len(pairs):
        raise CheckpointError("the safetensors header names a tensor twice")
    return content


def read_safetensors(data: memoryview) -> Tuple[Dict[str, np.ndarray], Dict[str, Any]]:
    """(arrays as views of the file, the `__metadata__` texts)."""
    size = int.from_bytes(data[:8], "little")
    if size > min(_MAX_HEADER, len(data) - 8):
        raise CheckpointError(f"the safetensors header claims {size} bytes in a file of {len(data)}")
    try:
        header = json.loads(bytes(data[8:8 + size]).decode("utf-8"), object_pairs_hook=_no_duplicates)
        metadata = header.pop("__metadata__", None) or {}
        entries = sorted(((entry["data_offsets"], name, entry["dtype"], entry["shape"])
                          for name, entry in header.items()))
        metadata = {str(key): str(value) for key, value in metadata.items()}
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"damaged safetensors header: {str(error)[:120]}") from None
    content, position, arrays = data[8 + size:], 0, {}
    for offsets, name, dtype, shape in entries:
        limits = shape_of(offsets)
        if len(limits) != 2:
            raise CheckpointError(f"safetensors entry '{name[:80]}' has {len(limits)} offsets, expected 2")
        start, end = limits
        if start != position or end < start or end > len(content):
            raise CheckpointError(f"safetensors entry '{name[:80]}' lies at {start}:{end}, expected to start at "
                                  f"{position} of {len(content)} bytes")
        if not isinstance(dtype, str) or dtype not in SAFETENSORS:
            raise CheckpointError(f"safetensors entry '{name[:80]}' has the unsupported dtype {str(dtype)[:20]}")
        arrays[name] = array_from(content[start:end], np.dtype(SAFETENSORS[dtype]), shape, False)
        position = end
    if position != len(content):
        raise CheckpointError(f"{len(content) - position} bytes after the last safetensors entry")
    return arrays, metadata


def read_npz(archive: Archive) -> Dict[str, np.ndarray]:
    """Arrays of an npz archive; object arrays (pickles) are refused."""
    return {name[:-len(".npy")] if name.endswith(".npy") else name: _npy(archive.read(name), name)
            for name in archive.names()}


def _npy(data: memoryview, name: str) -> np.ndarray:
    header = io.BytesIO(bytes(data[:_NPY_HEADER]))
    try:
        version = np.lib.format.read_magic(header)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(header)
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"'{name[:80]}' is no numpy array: {str(error)[:120]}") from None
    if dtype.hasobject:
        raise UnsafeCheckpoint(f"'{name[:80]}' is an object array, which numpy would unpickle")
    if dtype == np.dtype("V2"):  # how numpy stores the bfloat16 of ml_dtypes
        dtype = np.dtype("u2")
    if dtype.subdtype is not None or dtype.newbyteorder("=") not in NUMBERS:
        raise CheckpointError(f"'{name[:80]}' has dtype {dtype}; weights are numbers")
    return array_from(data[header.tell():], dtype, shape, fortran)
