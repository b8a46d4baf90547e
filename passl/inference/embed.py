"""Embeddings of any number of images on disk: written as they come, continued after an interruption."""
from __future__ import annotations

import csv
import fcntl
import json
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

import numpy as np

from passl.data.sources import ImageFiles
from passl.errors import UserError
from passl.evaluation.features import fingerprint
from passl.inference.card import card_of
from passl.inference.stream import digest, stream

FEATURES, INDEX, PARTIAL, PROGRESS = "features.npy", "index.csv", "features.partial.npy", "progress.json"
LOCK = ".lock"
SAVE_SECONDS = 10.0


def embed_to_folder(model, samples: ImageFiles, folder: Path, batch_size: int = 64, workers: int = 0,
                    skip_unreadable: bool = False) -> Dict[str, Any]:
    """Write `features.npy` float32 [N, F] and `index.csv` (row, path, class, readable) below `folder`.

    Row i is image i of `samples`; rows of unreadable images (`skip_unreadable`) are NaN. While it runs the rows done
    are in `features.partial.npy` and their number in `progress.json`; the same call continues there. Returns a summary
    {"images", "continued_from", "unreadable", "seconds"}.
    ValueError when the folder holds the work of other weights, images or transforms, or another process works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        return _embed_to_folder(model, samples, folder, batch_size, workers, skip_unreadable)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine out of the folder; a process that dies gives it back."""
    with open(folder / LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is writing embeddings to {folder}: wait for it, or choose another folder"
                            ) from None
        yield


def _embed_to_folder(model, samples: ImageFiles, folder: Path, batch_size: int, workers: int, skip_unreadable: bool
                     ) -> Dict[str, Any]:
    key = {"weights": fingerprint(model.state_dict()), "images": digest(samples),
           "transform": json.loads(json.dumps(card_of(model).transform)), "batch_size": batch_size}
    progress = _progress(folder, key)
    begin = time.monotonic()
    done, unreadable = progress["batches"], list(progress["unreadable"])
    summary = {"images": len(samples), "continued_from": min(done * batch_size, len(samples)), "unreadable": unreadable}
    if not progress["complete"]:
        rows: Optional[np.ndarray] = None
        saved = time.monotonic()
        for batch in stream(model, samples, model.extract_feat, batch_size, workers, skip_unreadable, done):
            values = batch.output.astype("float32").numpy()
            values[~batch.readable] = np.nan
            if rows is None:
                rows = _open(folder / PARTIAL, (len(samples), values.shape[1]), new=done == 0)
            rows[batch.start:batch.start + len(values)] = values
            unreadable += [samples.path(batch.start + int(row)) for row in np.flatnonzero(~batch.readable)]
            done += 1
            if time.monotonic() - saved > SAVE_SECONDS:
                rows.flush()
                _save(folder, {"key": key, "batches": done, "unreadable": unreadable, "complete": False})
                saved = time.monotonic()
        if rows is not None:
            rows.flush()
        del rows
        _write_index(folder / INDEX, samples, set(unreadable))
        os.replace(folder / PARTIAL, folder / FEATURES)
        _save(folder, {"key": key, "batches": done, "unreadable": unreadable, "complete": True})
    return {**summary, "seconds": time.monotonic() - begin}


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
    aside = folder / (PROGRESS + ".part")
    aside.write_text(json.dumps(progress, indent=1))
    os.replace(aside, folder / PROGRESS)


def _open(path: Path, shape, new: bool) -> np.ndarray:
    return np.lib.format.open_memmap(path, mode="w+" if new else "r+", dtype=np.float32, shape=shape if new else None)


def _write_index(path: Path, samples: ImageFiles, unreadable) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "path", "class", "readable"])
        for row in range(len(samples)):
            label = int(samples.labels[row])
            name = samples.classes[label] if 0 <= label < len(samples.classes) else "" if label < 0 else label
            writer.writerow([row, samples.path(row), name, int(samples.path(row) not in unreadable)])
