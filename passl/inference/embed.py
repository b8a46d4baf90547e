"""Features of images: as an array, or of any number of files into a folder, continued after an interruption."""
from __future__ import annotations

import csv
import json
import logging
import os
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Union

import numpy as np

from passl import files
from passl.data.sources import ImageFiles
from passl.errors import UserError
from passl.evaluation.features import network_fingerprint
from passl.files import PathLike
from passl.inference.card import card_of
from passl.inference.engine import Engine, Model
from passl.inference.images import digest, find_images

LOGGER = logging.getLogger("passl.inference")
FEATURES, INDEX, PARTIAL, PROGRESS = "features.npy", "index.csv", "features.partial.npy", "progress.json"
LOCK = ".lock"
SAVE_SECONDS = 10.0


def embed(model: Model, images: Any, batch_size: int = 32, engine: str = "auto") -> np.ndarray:
    """Features of pictures, float32 [N, F], also for a single one (N = 1): pooled trunk features, before any head.

    images: see `passl.inference.images.collect`; TypeError or ValueError for what is no picture. engine: what runs the
    network, `backend` of `Engine`.

    Example:
        >>> import numpy, passl
        >>> model = passl.get_model("resnet10", base_channels=4, stem="small")
        >>> passl.embed(model, numpy.zeros([3, 32, 32, 3], "uint8")).shape
        (3, 32)
    """
    return Engine(model, batch_size, backend=engine).run(images)["features"]


class EmbeddedFolder(NamedTuple):
    """images: rows in all; continued_from: of them there already; unreadable: paths; seconds that this call took."""

    images: int
    continued_from: int
    unreadable: List[str]
    seconds: float


def embed_folder(model: Model, images: Union[ImageFiles, PathLike, Sequence[PathLike]], folder: PathLike,
                 batch_size: int = 64, workers: Optional[int] = None, skip_unreadable: bool = False,
                 engine: str = "auto") -> EmbeddedFolder:
    """Write `features.npy` float32 [N, F] and `index.csv` (row, path, class, readable) below `folder`.

    images: files, folders and list files. Row i is image i; rows of unreadable images (`skip_unreadable`) are NaN.
    workers, skip_unreadable, and engine for `backend`: see `Engine`.
    While it runs the rows done are in `features.partial.npy` and their number in `progress.json`; the same call
    continues there.
    ValueError when the folder holds the work of other weights, images or transforms, or another process works in it.

    Example:
        >>> import numpy, passl, PIL.Image
        >>> PIL.Image.fromarray(numpy.zeros([32, 32, 3], "uint8")).save("black.png")
        >>> model = passl.get_model("resnet10", base_channels=4, stem="small")
        >>> passl.embed_folder(model, "black.png", "embeddings").images
        1
        >>> numpy.load("embeddings/features.npy").shape
        (1, 32)
    """
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    busy = UserError(f"another process is writing embeddings to {folder}: wait for it, or choose another folder")
    samples = images if isinstance(images, ImageFiles) else find_images(images)
    with files.locked(folder / LOCK, busy):
        return _embed_folder(Engine(model, batch_size, workers, skip_unreadable, engine), samples, folder)


def _embed_folder(engine: Engine, samples: ImageFiles, folder: Path) -> EmbeddedFolder:
    key = {"weights": network_fingerprint(engine.network), "images": digest(samples),
           "transform": json.loads(json.dumps(card_of(engine.network).transform)), "batch_size": engine.batch_size}
    progress = _progress(folder, key)
    begin = time.monotonic()
    done, unreadable = progress["batches"], list(progress["unreadable"])
    continued_from = min(done * engine.batch_size, len(samples))
    if not progress["complete"]:
        rows: Optional[np.memmap] = None
        saved = time.monotonic()
        for batch in engine.stream(samples, first_batch=done):
            values = batch.array("features")
            if rows is None:
                if done and progress.get("engine", "eager") != engine.used:  # not a key: they agree within 1e-4
                    LOGGER.info(f"the first {continued_from} rows were made by {progress.get('engine', 'eager')}, the "
                                f"others by {engine.used} and the live network; they differ by rounding")
                rows = _open(folder / PARTIAL, (len(samples), values.shape[1]), new=done == 0)
            rows[batch.start:batch.start + len(values)] = values
            unreadable += [samples.path(batch.start + int(row)) for row in np.flatnonzero(~batch.valid)]
            done += 1
            if time.monotonic() - saved > SAVE_SECONDS:
                rows.flush()
                _save(folder, {"key": key, "batches": done, "unreadable": unreadable, "complete": False,
                               "engine": engine.used})
                saved = time.monotonic()
        if rows is not None:
            rows.flush()
        del rows
        _write_index(folder / INDEX, samples, set(unreadable))
        os.replace(folder / PARTIAL, folder / FEATURES)
        _save(folder, {"key": key, "batches": done, "unreadable": unreadable, "complete": True,
                       "engine": engine.used or progress.get("engine", "eager")})
    return EmbeddedFolder(len(samples), continued_from, unreadable, time.monotonic() - begin)


def _progress(folder: Path, key: Dict[str, Any]) -> Dict[str, Any]:
    path = folder / PROGRESS
    if not path.exists():
        if (folder / FEATURES).exists():
            raise UserError(f"{folder / FEATURES} exists and is not ours to overwrite: choose another folder")
        return {"batches": 0, "unreadable": [], "complete": False}
    try:
        found = json.loads(path.read_text())
        found["key"].items(), found["batches"], found["unreadable"], found["complete"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged, so the work in {folder} cannot be continued: remove the folder or choose "
                        "another") from None
    different = [name for name in key if found["key"].get(name) != key[name]]
    if different:
        raise UserError(f"{folder} holds embeddings of other {' and '.join(different)}: choose another folder or "
                        "remove it")
    if not (folder / (FEATURES if found["complete"] else PARTIAL)).exists():
        return {"batches": 0, "unreadable": [], "complete": False}
    return found


def _save(folder: Path, progress: Dict[str, Any]) -> None:
    files.write_text(folder / PROGRESS, json.dumps(progress, indent=1))


def _open(path: Path, shape, new: bool) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+" if new else "r+", dtype=np.float32, shape=shape if new else None)


def _write_index(path: Path, samples: ImageFiles, unreadable) -> None:
    with files.written_text(path) as file:
        writer = csv.writer(file)
        writer.writerow(["row", "path", "class", "readable"])
        for row in range(len(samples)):
            label = int(samples.labels[row])
            name = samples.classes[label] if 0 <= label < len(samples.classes) else "" if label < 0 else label
            writer.writerow([row, samples.path(row), name, int(samples.path(row) not in unreadable)])
