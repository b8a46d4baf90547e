"""Checkpoints: all or nothing on disk, verified when read, laid out under PASSL's names.

One checkpoint is a directory, e.g. `epoch_3/`, holding `passl.pdparams`, `passl.pdopt`, `passl.pdstates`, one
`rank_R.pdstates` per rank, the run's `config.yaml`, and `manifest.json` with the size and SHA-256 of each. It is
written beside its final place and renamed when complete. `latest`, `best` and `epoch_N` are what users name; each also
answers as a PASSL file prefix through links (`latest.pdparams` -> `latest/passl.pdparams`).

`latest` is a link to the newest directory, exchanged by one rename, so that at any moment it names a whole checkpoint.
"""
from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple

from passl import __version__, distributed
from passl.engine.log import LOGGER
from passl.errors import CheckpointError
from passl.files import flush, sha256
from passl.weights import read, read_tree

PARAMETERS, OPTIMIZER, STATES, CONFIG = "passl.pdparams", "passl.pdopt", "passl.pdstates", "config.yaml"
SUFFIXES = (".pdparams", ".pdopt", ".pdstates")
MANIFEST = "manifest.json"
STORE = "checkpoints"
NAMES = re.compile(r"(latest|best|nonfinite|epoch_\d+)(\.(pdparams|pdopt|pdstates))?")


class Loaded(NamedTuple):
    """parameters: name -> array; optimizer, states: plain trees; ranks: the per-rank trees of the saving run."""

    directory: Path
    parameters: Dict[str, Any]
    optimizer: Dict[str, Any]
    states: Dict[str, Any]
    ranks: List[Dict[str, Any]]


# ---------------------------------------------------------------------------------------------------------- writing
def _write(path: Path, content: Any) -> None:
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        import paddle

        paddle.save(content, str(path))
    flush(path)


def _link(target: str, link: Path) -> None:
    """Create or atomically exchange a symbolic link; a real folder there is a copy made with the links followed."""
    aside = link.with_name(f".{link.name}.new")
    if aside.is_symlink() or aside.exists():
        aside.unlink()
    os.symlink(target, aside)
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    os.replace(aside, link)


class CheckpointStore:
    """Writes the checkpoints of one run under `<output_dir>/<Model.name>/`.

    keep: how many `epoch_N` stay (PASSL's max_num_latest_checkpoint: 0 none, n the newest n, negative all).
    """

    def __init__(self, folder: Path, keep: int):
        self.folder = Path(folder)
        self.keep = keep

    def save(self, names: List[str], step: int, shared: Callable[[], Mapping[str, Any]],
             rank_state: Dict[str, Any]) -> None:
        """Write one checkpoint and let every name in `names` (latest, best, epoch_N) stand for it.

        Called on all ranks; rank 0 writes the files that `shared()` returns (name -> tree or text), every rank its
        own. `shared` is called on rank 0 alone, as it copies weights and optimizer state to host memory. Raises
        RankFailure on all ranks, with everything as it was before, when any of them cannot write.
        """
        rank = distributed.rank()
        label = f"step_{step:09d}"
        aside = self.folder / STORE / f".{label}.partial"
        with distributed.together("preparing the checkpoint folder", OSError):
            if rank == 0:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
        try:
            with distributed.together("writing the checkpoint", OSError):
                _write(aside / f"rank_{rank}.pdstates", rank_state)
                for name, content in shared().items() if rank == 0 else ():
                    _write(aside / name, content)
            with distributed.together("publishing the checkpoint", OSError):
                if rank == 0:
                    self._publish(aside, label, names)
        except distributed.RankFailure:
            if rank == 0:
                shutil.rmtree(aside, ignore_errors=True)
            raise

    def _publish(self, aside: Path, label: str, names: List[str]) -> None:
        files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(aside.iterdir())}
        sequence = 1 + max([_sequence(path) for path in stored(self.folder)], default=0)
        manifest = {"passl": __version__, "sequence": sequence, "names": names, "files": files}
        _write(aside / MANIFEST, json.dumps(manifest, indent=1))
        flush(aside)
        final = self.folder / STORE / label
        again = 0
        while final.exists():  # the same step saved twice: the older copy stays whole until no name leads to it
            again += 1
            final = self.folder / STORE / f"{label}.{again}"
        aside.rename(final)
        flush(final.parent)
        for name in names:
            _link(f"{STORE}/{final.name}", self.folder / name)
            for suffix in SUFFIXES:
                _link(f"{name}/passl{suffix}", self.folder / f"{name}{suffix}")
        flush(self.folder)
        try:
            self._prune(names)
        except OSError as failure:  # the new checkpoint is whole; old ones that stay only take room
            LOGGER.warning(f"old checkpoints in {self.folder} could not be removed, the run goes on: {failure}")

    def _prune(self, written: List[str]) -> None:
        """Drop epoch names beyond `keep`, then every stored step that no name leads to, and interrupted writes.

        By the order of saving: epoch numbers may start again, in a run that continues an older checkpoint.
        """
        epochs = sorted((path for path in self.folder.iterdir()
                         if re.fullmatch(r"epoch_\d+", path.name) and path.is_symlink()), key=_sequence)
        dropped = [] if self.keep < 0 else epochs[:max(0, len(epochs) - self.keep)]
        for path in dropped:
            if path.name not in written:
                for suffix in SUFFIXES:
                    path.with_name(path.name + suffix).unlink(missing_ok=True)
                path.unlink()
        named = {path.resolve().name for path in self.folder.iterdir() if path.is_symlink()}
        for path in (self.folder / STORE).iterdir():
            if path.name not in named:
                shutil.rmtree(path)


# ---------------------------------------------------------------------------------------------------------- finding
def _said(directory: Path) -> Dict[str, Any]:
    """The manifest; nothing when it is damaged."""
    try:
        return read_manifest(directory)
    except CheckpointError:
        return {}


def _sequence(directory: Path) -> int:
    """How many checkpoints of the folder were saved up to this one; 0 when it does not say."""
    return int(_said(directory).get("sequence", 0))


def stored(folder: Path) -> List[Path]:
    """The stored steps of a run, newest first, without those that only keep the state of a broken loss."""
    steps = sorted((path for path in (Path(folder) / STORE).glob("step_*") if path.is_dir()),
                   key=lambda path: (_sequence(path), path.name), reverse=True)
    return [path for path in steps if _said(path).get("names") != ["nonfinite"]]


def discard(folder: Path) -> None:
    """Remove the checkpoints, their names and `metrics.jsonl` of a run; nothing else in its folder."""
    for path in [path for path in folder.iterdir() if NAMES.fullmatch(path.name)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    shutil.rmtree(folder / STORE, ignore_errors=True)
    (folder / "metrics.jsonl").unlink(missing_ok=True)


def locate(prefix: str) -> Path:
    """The checkpoint directory that a `Global.checkpoint` value names (a directory, or a PASSL prefix or file)."""
    text = re.sub(r"\.(pdparams|pdopt|pdstates)$", "", os.path.expanduser(prefix).rstrip("/"))
    path = Path(text)
    if (path / MANIFEST).is_file():
        return path.resolve()
    if (path / "latest" / MANIFEST).is_file():
        return (path / "latest").resolve()
    if (path / PARAMETERS).is_file():
        raise CheckpointError(f"{path} has lost its {MANIFEST}: it cannot be verified; resume from another one, or "
                              f"start a new run with -o Global.pretrained_model={path / PARAMETERS}")
    for file in (Path(text + ".pdparams"), Path(prefix)):
        if file.is_file():
            raise CheckpointError(
                f"{file} is there, but not as a checkpoint of this library (no {MANIFEST}); its weights can start a "
                f"new run with -o Global.pretrained_model={file}")
    found = sorted(str(p.parent) for p in path.parent.glob(f"*/{MANIFEST}")) if path.parent.is_dir() else []
    raise CheckpointError(f"no checkpoint at {prefix}", f"there are: {', '.join(found)}" if found else
                          "Global.checkpoint is auto or a path such as output/<Model.name>/latest")


# ---------------------------------------------------------------------------------------------------------- reading
def read_manifest(directory: Path) -> Dict[str, Any]:
    """The parsed `manifest.json`, known to name all parts; CheckpointError when it does not."""
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        files = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
        lacking = [name for name in (PARAMETERS, OPTIMIZER, STATES, "rank_0.pdstates") if name not in files]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read ({str(error) or type(error).__name__}): the checkpoint is "
                              "damaged; resume from another one") from None
    if lacking:
        raise CheckpointError(f"{path} does not name {lacking[0]}: the checkpoint is damaged; resume from another "
                              "one")
    return manifest


def verify(directory: Path) -> List[str]:
    """Compare every file with the manifest; their names. CheckpointError names the damaged one."""
    files = read_manifest(directory)["files"]
    for name, expected in files.items():
        path = directory / name
        size = path.stat().st_size if path.is_file() else None
        if size != expected["bytes"]:
            what = "is missing" if size is None else f"has {size} bytes instead of {expected['bytes']}"
            raise CheckpointError(f"{path} {what}: the checkpoint is damaged; resume from another one")
        if sha256(path) != expected["sha256"]:
            raise CheckpointError(f"{path} does not match its checksum: the checkpoint is damaged; resume from "
                                  "another one")
    return list(files)


def load(prefix: str) -> Loaded:
    """Read and verify a checkpoint; CheckpointError names the damaged file. Arrays are views of the files."""
    directory = locate(prefix)
    files = verify(directory)
    count = sum(name.startswith("rank_") for name in files)
    try:
        ranks = [_read_plain(directory / f"rank_{number}.pdstates") for number in range(count)]
        return Loaded(directory, read(directory / PARAMETERS).tensors, _read_plain(directory / OPTIMIZER),
                      _read_plain(directory / STATES), ranks)
    except CheckpointError as error:
        raise CheckpointError(f"{error}: the checkpoint is damaged; resume from another one") from None


def _read_plain(path: Path) -> Dict[str, Any]:
    """A saved dict without the name table that paddle.save adds to dicts of arrays."""
    tree = dict(read_tree(path))
    tree.pop("StructuredToParameterName@@", None)
    return tree
