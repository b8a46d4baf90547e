"""Files of passl/ have names that a reader cannot mix up."""
from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Iterable, List

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "passl"
ENDINGS = ("", "s", "d", "ed", "ing")  # models and model, exported and export
# What every network, or every method, has in common stands in the base.py of its room. `exported` is a command that
# users know: python -m passl.inference.exported.
ALLOWED = {"base", "exported"}


def confusing(files: Iterable[Path]) -> List[str]:
    """Pairs of files whose names differ by an ending at most; a command may have the name of what it calls."""
    named = sorted(file for file in files if not file.stem.startswith("__") and file.stem not in ALLOWED)
    return [f"{one} and {other}" for one, other in combinations(named, 2)
            if {one.stem + ending for ending in ENDINGS} & {other.stem + ending for ending in ENDINGS}
            and not (one.stem == other.stem and "cli" in (one.parent.name, other.parent.name))]


def test_names_of_files_cannot_be_mixed_up():
    assert confusing(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")) == []


@pytest.mark.parametrize("files, pairs", [
    (["cli/knn.py", "evaluation/knn.py"], 0), (["models/model.py", "inference/models.py"], 1),
    (["models/pretrain.py", "models/pretrained.py"], 1), (["data/batch.py", "inference/batch.py"], 1),
    (["cli/model.py", "inference/models.py"], 1), (["data/__init__.py", "models/__init__.py"], 0),
    (["engine/train.py", "engine/trainer.py"], 0)])
def test_the_check_of_names_can_fail(files, pairs):
    assert len(confusing(map(Path, files))) == pairs
