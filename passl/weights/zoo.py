"""Released models of the family: where they are, what they hold, what they score.

The weights belong to their authors. SwAV's are CC BY-NC 4.0: we load them, we never redistribute them, and a converted
file stays under their licence. Accuracies are ImageNet top-1 in per cent as published by the authors. The table
is `releases.yaml` beside this file; `passl.get_model` builds the networks.
"""
from __future__ import annotations

import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import yaml

from passl.errors import UnknownComponent
from passl.registry import nearest

_NON_COMMERCIAL = "CC BY-NC 4.0 (no commercial use; load, do not redistribute)"
_NOT_BUILT = ("alexnet", "resnet50-preactivation")  # networks that only passl-convert knows


@dataclass(frozen=True)
class Release:
    """One published file.

    file: its name. url: of the file, or of the archive that has it as `member`. page: where its authors describe it.
    keys: layout of its keys (a name of `passl.weights.layouts.keymaps.LAYOUTS`). prefix: what stands before each key
    of trunk and heads.
    hidden, embedding, prototypes (per head), head_batch_norm: its projection head; 0 and () without one.
    classes: outputs of a classifier, or of each of SeLa's cluster heads. classifier: "linearprobe" or "finetune" when
    that classifier is one for ImageNet's classes. trunk: for a classifier published without its trunk, the release
    that has it. accuracy: top-1 of a linear probe, or of the network itself when it is a fine-tuned one (None: not
    published for this file). sha256: None where the authors publish none; then the file is read before it is accepted,
    its sum is kept beside it and compared from then on.
    """

    name: str
    method: str
    architecture: str
    file: str
    url: Optional[str]
    page: str
    keys: str
    prefix: str = ""
    hidden: int = 0
    embedding: int = 0
    prototypes: Tuple[int, ...] = ()
    head_batch_norm: bool = True
    classes: Tuple[int, ...] = ()
    classifier: str = ""
    trunk: str = ""
    epochs: int = 0
    crops: str = ""
    accuracy: Optional[float] = None
    licence: str = _NON_COMMERCIAL
    sha256: Optional[str] = None
    member: str = ""

    @property
    def convert_only(self) -> bool:
        """Whether `passl-convert` reads the file but no network of this library takes it."""
        return self.architecture in _NOT_BUILT

    def head_keys(self) -> List[str]:
        """Layers of the heads, under the names of the file."""
        heads: List[str] = []
        if self.embedding:
            linear = (0, 1, 3) if self.head_batch_norm else (0, 2)
            heads = [f"projection_head.{position}" for position in linear]
            heads += ["prototypes"] if len(self.prototypes) == 1 else [
                f"prototypes.prototypes{head}" for head in range(len(self.prototypes))]
        elif self.classifier == "finetune":
            heads = ["projection_head"]
        elif self.classifier == "linearprobe":
            return ["linear.linear"] if self.keys == "passl" else [f"{self.prefix}linear"]
        elif self.classes:
            heads = [f"top_layer{head}" for head in range(len(self.classes))] if len(self.classes) > 1 else ["fc"]
        return [self.prefix + head for head in heads]


def _published() -> Iterator[Release]:
    groups = yaml.safe_load(Path(__file__).with_name("releases.yaml").read_text(encoding="utf-8"))
    for group in groups:
        for own in group["releases"]:
            facts: Dict[str, Any] = {**group["shared"], **own}
            folder = facts.pop("folder")
            lists = {name: tuple(fact) for name, fact in facts.items() if isinstance(fact, list)}
            yield Release(**{"url": folder + facts["file"], **facts, **lists})


RELEASES: Tuple[Release, ...] = tuple(_published())
_BY_NAME: Dict[str, Release] = {release.name: release for release in RELEASES}


def list_models(pattern: str = "*") -> List[str]:
    """Names of the released models, optionally those that match a shell pattern such as `swav_*`."""
    return [release.name for release in RELEASES if fnmatch.fnmatchcase(release.name, pattern)]


def release(name: str) -> Release:
    """The entry of a name; KeyError with the nearest name otherwise."""
    if name not in _BY_NAME:
        raise UnknownComponent(f"no released model is called '{name}'{nearest(name, _BY_NAME)}; `passl list-models` "
                               "shows all")
    return _BY_NAME[name]


def home() -> str:
    """Where this library keeps files between runs: $PASSL_HOME, by default ~/.passl."""
    return os.path.expanduser(os.environ.get("PASSL_HOME") or "~/.passl")


def weights_folder() -> str:
    """Where released files are looked for: $PASSL_HOME/weights, by default ~/.passl/weights."""
    return os.path.join(home(), "weights")
