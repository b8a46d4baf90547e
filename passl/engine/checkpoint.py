"""Checkpoints: all or nothing on disk, verified when read, laid out under PASSL's names.

One checkpoint is a directory, e.g. `epoch_3/`, holding `passl.pdparams`, `passl.pdopt`, `passl.pdstates`, one
`rank_R.pdstates` per rank and `manifest.json` with the size and SHA-256 of each. It is written beside its final place
and renamed when complete. `latest`, `best` and `epoch_N` are what users name; each also answers as a PASSL file prefix
through links (`latest.pdparams` -> `latest/passl.pdparams`).

`latest` is a link to the newest directory, exchanged by one rename, so that at any moment it names a whole checkpoint.
"""
from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from passl import __version__, distributed
from passl.weights import read, read_tree

SUFFIXES = (".pdparams", ".pdopt", ".pdstates")
MANIFEST = "manifest.json"
STORE = "checkpoints"


class CheckpointNotUsable(ValueError):
    """A checkpoint that is missing, damaged or of another run; the message says which and what to do."""


class Loaded(NamedTuple):
    """parameters: name -> array; optimizer, states: plain trees; ranks: the per-rank trees of the saving run."""

    directory: Path
    parameters: Dict[str, Any]
    optimizer: Dict[str, Any]
    states: Dict[str, Any]
    ranks: List[Dict[str, Any]]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 22), b""):
            digest.update(block)
    return digest.hexdigest()


def _write(path: Path, tree: Any) -> None:
    import paddle

    paddle.save(tree, str(path))
    with open(path, "rb") as file:  # a checkpoint that a power cut can empty is none
        os.fsync(file.fileno())


def _link(target: str, link: Path) -> None:
    """Create or atomically exchange a symbolic link."""
    aside = link.with_name(f".{link.name}.new")
    if aside.is_symlink() or aside.exists():
        aside.unlink()
    os.symlink(target, aside)
    os.replace(aside, link)


class CheckpointStore:
    """Writes and finds the checkpoints of one run under `<output_dir>/<Model.name>/`.

    keep: how many `epoch_N` stay (PASSL's max_num_latest_checkpoint: 0 none, n the newest n, negative all).
    """

    def __init__(self, folder: Path, keep: int):
        self.folder = Path(folder)
        self.keep = keep

    def save(self, names: List[str], parameters, optimizer, states: Dict[str, Any], rank_state: Dict[str, Any]) -> None:
        """Write one checkpoint and let every name in `names` (latest, best, epoch_N) stand for it.

        Called on all ranks; rank 0 writes the common files, every rank its own. Raises RankFailure on all ranks, with
        everything as it was before, when any of them cannot write.
        """
        rank, world_size = distributed.rank(), distributed.world_size()
        label = f"step_{states['global_step']:09d}"
        aside = self.folder / STORE / f".{label}.partial"
        error: Optional[Exception] = None
        try:
            if rank == 0:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
        except OSError as failure:
            error = failure
        distributed.fail_together("preparing the checkpoint folder", error)
        try:
            _write(aside / f"rank_{rank}.pdstates", rank_state)
            if rank == 0:
                _write(aside / "passl.pdparams", parameters)
                _write(aside / "passl.pdopt", optimizer)
                _write(aside / "passl.pdstates", {**states, "world_size": world_size})
        except OSError as failure:
            error = failure
        try:
            distributed.fail_together("writing the checkpoint", error)
            if rank == 0:
                try:
                    self._publish(aside, label, names)
                except OSError as failure:
                    error = failure
            distributed.fail_together("publishing the checkpoint", error)
        except distributed.RankFailure:
            if rank == 0:
                shutil.rmtree(aside, ignore_errors=True)
            raise

    def _publish(self, aside: Path, label: str, names: List[str]) -> None:
        files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(aside.iterdir())}
        (aside / MANIFEST).write_text(json.dumps({"passl": __version__, "files": files}, indent=1))
        final = self.folder / STORE / label
        again = 0
        while final.exists():  # the same step saved twice: the older copy stays whole until no name leads to it
            again += 1
            final = self.folder / STORE / f"{label}.{again}"
        aside.rename(final)
        label = final.name
        for name in names:
            _link(f"{STORE}/{label}", self.folder / name)
            for suffix in SUFFIXES:
                _link(f"{name}/passl{suffix}", self.folder / f"{name}{suffix}")
        self._prune()

    def _prune(self) -> None:
        """Drop epoch names beyond `keep`, then every stored step that no name leads to, and interrupted writes."""
        epochs = sorted((int(match[1]), path) for path in self.folder.iterdir()
                        for match in [re.fullmatch(r"epoch_(\d+)", path.name)] if match and path.is_symlink())
        dropped = epochs if self.keep == 0 else epochs[:-self.keep] if self.keep > 0 else []
        for _, path in dropped:
            for suffix in SUFFIXES:
                path.with_name(path.name + suffix).unlink()
            path.unlink()
        named = {path.resolve().name for path in self.folder.iterdir() if path.is_symlink()}
        for stored in (self.folder / STORE).iterdir():
            if stored.name not in named:
                shutil.rmtree(stored)


def choose(setting: Optional[str], folder: Path) -> Optional[str]:
    """What to resume from: Global.checkpoint itself or, for `auto`, the run's own `latest` if it has one yet."""
    if setting != "auto":
        return setting
    latest = Path(folder) / "latest"
    return str(latest) if (latest / MANIFEST).is_file() else None


def locate(prefix: str) -> Path:
    """The checkpoint directory that a `Global.checkpoint` value names (a directory, or a PASSL prefix or file)."""
    text = re.sub(r"\.(pdparams|pdopt|pdstates)$", "", str(prefix).rstrip("/"))
    path = Path(text)
    if (path / MANIFEST).is_file():
        return path.resolve()
    if (path / "latest" / MANIFEST).is_file():
        return (path / "latest").resolve()
    if Path(text + ".pdparams").is_file():
        raise CheckpointNotUsable(
            f"{text}.pdparams is there, but not as a checkpoint of this library (no {MANIFEST}); its weights can "
            f"start a new run with -o Global.pretrained_model={text}")
    found = sorted(str(p.parent) for p in path.parent.glob(f"*/{MANIFEST}")) if path.parent.is_dir() else []
    raise CheckpointNotUsable(f"no checkpoint at {prefix}" + (f"; there are: {', '.join(found)}" if found else
                              "; Global.checkpoint is auto or a path such as output/<Model.name>/latest"))


def load(prefix: str) -> Loaded:
    """Read and verify a checkpoint; CheckpointNotUsable names the damaged file."""
    directory = locate(prefix)
    files = json.loads((directory / MANIFEST).read_text())["files"]
    for name, expected in files.items():
        path = directory / name
        size = path.stat().st_size if path.is_file() else None
        if size != expected["bytes"]:
            what = "is missing" if size is None else f"has {size} bytes instead of {expected['bytes']}"
            raise CheckpointNotUsable(f"{path} {what}: the checkpoint is damaged; resume from another one")
        if _sha256(path) != expected["sha256"]:
            raise CheckpointNotUsable(f"{path} does not match its checksum: the checkpoint is damaged; resume from "
                                      "another one")
    ranks = sorted((int(re.fullmatch(r"rank_(\d+)\.pdstates", name)[1]), name) for name in files
                   if name.startswith("rank_"))
    return Loaded(directory, read(directory / "passl.pdparams").tensors, _read_plain(directory / "passl.pdopt"),
                  _read_plain(directory / "passl.pdstates"), [_read_plain(directory / name) for _, name in ranks])


def _read_plain(path: Path) -> Dict[str, Any]:
    """A saved dict without the name table that paddle.save adds to dicts of arrays."""
    tree = dict(read_tree(path))
    tree.pop("StructuredToParameterName@@", None)
    return tree
