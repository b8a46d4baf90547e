"""Features kept on disk, so that probes and k-NN can be repeated without another pass over the images."""
from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional

import numpy as np

from passl.arrays import to_numpy
from passl.errors import UserError
from passl.files import PathLike

MANIFEST = "manifest.json"


class CachedFeatures(NamedTuple):
    """Memory-mapped features float [N, F] and labels int64 [N] (-1: none), in the order of the data set."""

    features: np.ndarray
    labels: np.ndarray


def save_features(directory: PathLike, key: Mapping[str, Any], features, labels) -> None:
    """Write one set of features below `directory`, replacing what is there; complete or not at all.

    key: what the features depend on, as JSON values: the fingerprint of the weights, the data set, the transforms.
    features [N, F], labels [N], as `extract_features` gives them. ValueError when the lengths differ.
    """
    arrays = CachedFeatures(to_numpy(features), to_numpy(labels))
    if len(arrays.features) != len(arrays.labels):
        raise UserError(f"{len(arrays.features)} features for {len(arrays.labels)} labels")
    directory = Path(directory)
    aside = directory.with_name(f"{directory.name}.{os.getpid()}.part")
    aside.mkdir(parents=True)
    try:
        for name, array in arrays._asdict().items():
            np.save(aside / f"{name}.npy", array, allow_pickle=False)
        (aside / MANIFEST).write_text(json.dumps({"key": dict(key), "rows": len(arrays.features)}, indent=1))
        if directory.exists():
            shutil.rmtree(directory)
        aside.rename(directory)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def load_features(directory: PathLike, key: Mapping[str, Any]) -> Optional[CachedFeatures]:
    """The features saved below `directory` for the same `key`, or None when there are none.

    Features of another key (other weights, other transforms) are not used; a warning names what differs. ValueError
    when the files are damaged or the folder holds something else.
    """
    directory = Path(directory)
    if not directory.exists():
        return None
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        saved, rows = manifest["key"], manifest["rows"]
        wanted = json.loads(json.dumps(dict(key)))
        if saved != wanted:
            changed = sorted(name for name in {*saved, *wanted} if saved.get(name) != wanted.get(name))
            warnings.warn(f"{directory} holds features of another {', '.join(changed)}; they are extracted anew",
                          stacklevel=2)
            return None
        arrays = CachedFeatures(*(np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                                  for name in CachedFeatures._fields))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{directory} holds no readable features ({error}); remove the folder") from error
    if any(len(array) != rows for array in arrays):
        raise UserError(f"{directory} should hold {rows} rows, found {[len(array) for array in arrays]}; "
                        "remove the folder")
    return arrays


def network_fingerprint(network) -> str:
    """`fingerprint` of a network's weights; of stems that share their weights, all but the commonest add their name."""
    stem = getattr(getattr(network, "trunk", network), "stem", "")
    return fingerprint(network.state_dict()) + (f" {stem}" if stem in ("small_padded", "small_pooled") else "")


def fingerprint(state: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of a state dict: names, dtypes, shapes and bytes, whatever the order of the entries."""
    digest = hashlib.sha256()
    for name in sorted(state):
        array = np.ascontiguousarray(to_numpy(state[name]))
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
