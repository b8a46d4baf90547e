"""Where the weights are that a user names: with or without suffix, a file, a run's folder or one of its checkpoints."""
from __future__ import annotations

from pathlib import Path
from typing import Optional

from passl.errors import CheckpointError

WEIGHTS = "passl.pdparams"  # inside a checkpoint folder


def find_weights(name: str) -> Path:
    """The weight file that `name` stands for.

    Tried in this order: the file itself; PASSL's prefix (`name`.pdparams); a checkpoint folder (`epoch_3`, `latest`);
    a run's folder, of which `best` is preferred to `latest`. CheckpointError lists what is there instead.
    """
    path = Path(name).expanduser()
    candidates = [path, Path(f"{path}.pdparams"), path / WEIGHTS, path / "best" / WEIGHTS, path / "latest" / WEIGHTS]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    folder = path if path.is_dir() else path.parent
    there = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".pdparams", ".tar", ".pth", ".pt",
                   ".safetensors", ".npz")) if folder.is_dir() else []
    raise CheckpointError(f"no weights at {name} (nor {name}.pdparams); " + (
        f"{folder} holds {', '.join(there[:8])}" if there else f"{folder} "
        f"{'holds no weight file' if folder.is_dir() else 'does not exist'}"))


def find_config(weights: Path, name: str = "config.yaml") -> Optional[Path]:
    """The config.yaml (or another file) beside weights in the layout of a run, or None.

    <run>/*.pdparams or <run>/latest/passl.pdparams: only where a run of this library keeps its weights, because such a
    file further up belongs to something else.
    """
    folder = weights.absolute().parent
    for place in [folder, folder.parent] if weights.name == WEIGHTS else [folder]:
        if (place / name).is_file():
            return place / name
    return None
