"""One entry for every weight file: find the format by content, return arrays and plain values."""
from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, Mapping, Tuple, Union

import numpy as np

from passl.errors import CheckpointError
from passl.weights.formats import array_files, paddle_files, torch_files
from passl.weights.formats.archive import Archive
from passl.weights.formats.tree import flatten

# where trainers keep the weights inside a checkpoint, longest first; a path counts when it leads to arrays
WRAPPERS: Tuple[Tuple[str, ...], ...] = (
    ("classy_state_dict", "base_model", "model"),  # VISSL
    ("state_dict",), ("model_state_dict",), ("model",), ("net",))


@dataclass
class Checkpoint:
    """A weight file: arrays by name, and everything else as plain values.

    tensors: name (as in the file, nested dictionaries joined by dots) -> numpy array. Arrays are read-only views of the
        mapped file wherever possible: copy one before changing it. uint16 always means bfloat16 bit patterns.
    meta: the rest of the file (epoch, optimizer, scheduler, ... ), plain values and arrays.
    format: "torch-zip", "torch-legacy", "safetensors", "npz" or "paddle".
    wrapper: dotted path under which the weights were found ("" for a flat file).
    """

    path: str
    format: str
    tensors: Dict[str, np.ndarray]
    meta: Dict[str, Any] = field(default_factory=dict)
    wrapper: str = ""


def read(path: Union[str, "os.PathLike[str]"], *, inert: Iterable[str] = (), check_sums: bool = True) -> Checkpoint:
    """Read a weight file of any supported format without running code from it.

    path: `.pth`, `.pth.tar`, `.pt` (zip or legacy stream), `.pdparams`, `.pdopt`, `.pdstates`, `.safetensors`, `.npz`;
        the format is found from the content, not from the name.
    inert: names of classes that may occur as records that do nothing (see `passl.weights.Inert`), for checkpoints that
        pickle objects beside their weights; those of omegaconf and argparse are records without asking.
    check_sums: compare the checksums of zip members (about 1 s per GB).
    Raises FileNotFoundError, CheckpointError (damaged, unknown), UnsafeCheckpoint (asks for more than plain values).
    """
    path = os.path.expanduser(path)
    data = _mapped(path)
    try:
        kind, tree = _parse(data, frozenset(inert), check_sums)
        if kind in ("safetensors", "npz"):
            arrays, meta = tree
            return Checkpoint(path, kind, arrays, meta)
        if isinstance(tree, np.ndarray):
            return Checkpoint(path, kind, {"": tree})
        if not isinstance(tree, Mapping):
            raise CheckpointError(f"holds a {type(tree).__name__}, expected a dictionary of weights")
        return _split(path, kind, tree)
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from None


def read_tree(path: Union[str, "os.PathLike[str]"], *, inert: Iterable[str] = ()) -> Any:
    """The whole object of a pickled file (`.pdopt`, `.pdstates`, ...) as it was saved, arrays in place."""
    path = os.fspath(path)
    try:
        kind, tree = _parse(_mapped(path), frozenset(inert), True)
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from None
    return tree[0] if kind in ("safetensors", "npz") else tree


def _mapped(path: str) -> memoryview:
    if os.path.isdir(path):
        raise CheckpointError(f"{path} is a folder, expected a weight file")
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise CheckpointError(f"{path} is empty")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _parse(data: memoryview, inert, check_sums: bool) -> Tuple[str, Any]:
    if bytes(data[:4]) == b"PK\x03\x04":
        archive = Archive(data, check_sums=check_sums)
        if any(name.rsplit("/", 1)[-1] == "data.pkl" for name in archive.names()):
            return "torch-zip", torch_files.read_zip(data, archive, inert)
        return "npz", (array_files.read_npz(archive), {})
    if torch_files.is_legacy(data):
        return "torch-legacy", torch_files.read_legacy(data, inert)
    if data[0] == 0x80:
        return "paddle", paddle_files.read_pickle(data, inert)
    if array_files.is_safetensors(data):
        return "safetensors", array_files.read_safetensors(data)
    raise CheckpointError(f"not a weight file (begins with {bytes(data[:8])!r}); known are PyTorch .pth/.pt, Paddle "
                          ".pdparams, .safetensors and .npz")


def _split(path: str, kind: str, tree: Mapping) -> Checkpoint:
    for wrapper in WRAPPERS:
        node: Any = tree
        for key in wrapper:
            node = node.get(key) if isinstance(node, Mapping) else None
        if isinstance(node, Mapping):
            tensors, others = flatten(node)
            if tensors:
                meta = {key: value for key, value in tree.items() if key != wrapper[0]}
                meta.update(others)
                return Checkpoint(path, kind, tensors, meta, ".".join(wrapper))
    tensors = {str(key): value for key, value in tree.items() if isinstance(value, np.ndarray)}
    meta = {key: value for key, value in tree.items() if not isinstance(value, np.ndarray)}
    return Checkpoint(path, kind, tensors, meta)


def widen(array: np.ndarray) -> np.ndarray:
    """float32 values of an array of floats; uint16 is read as bfloat16 bit patterns. Other dtypes pass unchanged."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if array.dtype.kind == "f" and array.dtype != np.float32 else array
