"""What a weight file holds, as a record that tells it to people, and what a converted one remembers of its source."""
from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple

from passl.errors import CheckpointError
from passl.weights.layouts.keymaps import LAYOUTS

CONVERSION = "passl.conversion"


@dataclass
class Found:
    """What a checkpoint holds.

    layout: key of `keymaps.LAYOUTS`. architecture: "resnet50", "resnet50w2", "alexnet", "resnet50-preactivation",
    "bottleneck [1, 1, 1, 1]", ... or "" when there is no trunk. width: channel multiplier (None: not a multiple of 64).
    stem: key of `passl.models.stems.STEMS`, assumed unless stem_known. origin: the layout of the file that this one was
    converted from, or its own; former: the keys it had there.
    hidden, embedding: sizes of the projection head (0: absent, or a single Linear for `hidden`).
    prototypes: their number per head; prototype_bias: they have one. classes: outputs of a classifier, probe or SeLa
    cluster head.
    prefix: what stands before the names; inner_prefix: the end of it that not every key of the file has.
    counters: BatchNorm's num_batches_tracked, which Paddle does not have, by canonical name of the BatchNorm.
    sources: canonical name -> key in the file. names: key in the file -> canonical name, counters and arrays that are
    named twice included, in the file's order. ignored, unknown: keys left out. misfits: what inside the trunk the
    architecture does not have, a line for each; such a file is neither loaded nor converted.
    """

    layout: str
    container: str
    architecture: str = ""
    block: str = ""
    blocks: Tuple[int, ...] = ()
    width: Optional[float] = None
    features: int = 0
    hidden: int = 0
    embedding: int = 0
    head_batch_norm: bool = False
    prototypes: List[int] = field(default_factory=list)
    prototype_bias: bool = False
    classes: List[int] = field(default_factory=list)
    stem_kernel: int = 0
    stem: str = ""
    stem_known: bool = False
    origin: str = ""
    former: List[str] = field(default_factory=list)
    epoch: Optional[int] = None
    wrapper: str = ""
    prefix: str = ""
    inner_prefix: str = ""
    counters: Dict[str, int] = field(default_factory=dict)
    sources: Dict[str, str] = field(default_factory=dict)
    names: Dict[str, str] = field(default_factory=dict)
    ignored: List[str] = field(default_factory=list)
    unknown: List[str] = field(default_factory=list)
    misfits: List[str] = field(default_factory=list)

    @property
    def has_trunk(self) -> bool:
        """Also of an own file with a trunk that no other library has, whose keys are unknown here."""
        own = self.unknown if self.layout == "passl" else ()
        return bool(self.architecture) or any("encoder" in key.split(".") for key in own)

    @property
    def kind(self) -> str:
        """What the weights are for, in a few words: "SwAV pretraining", "classifier", "trunk", ..."""
        if self.prototypes:
            return ("SwAV pretraining" if len(self.prototypes) == 1 else
                    f"DeepCluster-v2 or SeLa-v2 pretraining ({len(self.prototypes)} prototype heads)")
        if self.classes and not self.architecture:
            return "linear probe"
        if not self.architecture:
            return "projection head" if self.embedding else "part of a trunk"
        if self.layout.startswith("sela") or "top_layer0.weight" in self.sources:
            return "SeLa pretraining"
        return "classifier" if self.classes else "trunk"

    def describe(self) -> str:
        """A few lines for people: what `passl-convert` prints."""
        lines = [("file", f"{self.container}, keys of {LAYOUTS[self.layout].name}"), ("content", self.kind)]
        if self.inner_prefix:
            lines.append(("prefix", f"'{self.prefix}': the trunk lies under it"))
        if self.architecture:
            width = "" if self.width is None else f", width x{self.width:g}"
            features = f", {self.features} features" if self.features else ", its last layer is missing"
            lines.append(("architecture", f"{self.architecture}{width}{features}"))
        if self.stem:
            lines.append(("stem", self.stem if self.stem_known else f"{self.stem} is assumed, the weights do not tell; "
                          "say --stem"))
        if self.embedding:
            norm = "with batch norm" if self.head_batch_norm else "without batch norm"
            lines.append(("projection head", f"{self.hidden} hidden, {norm}, {self.embedding} outputs" if self.hidden
                          else f"one Linear, {self.embedding} outputs"))
        if self.prototypes:
            bias = " with bias" if self.prototype_bias else ""
            lines.append(("prototypes", " + ".join(map(str, self.prototypes)) + bias))
        if self.classes:
            lines.append(("classes", " + ".join(map(str, self.classes))))
        if self.epoch is not None:
            lines.append(("epoch", str(self.epoch)))
        for label, keys in (("left out", self.ignored), ("unknown keys", self.unknown), ("does not fit", self.misfits)):
            if keys:
                lines.append((label, ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")))
        return "\n".join(f"{label:<16}{text}" for label, text in lines)


@dataclass
class Notes:
    """What a converted Paddle file remembers of its source, under the key `passl.conversion`.

    Paddle has no place for BatchNorm's `num_batches_tracked`, nor for the key order and names of another library. Its
    own loaders skip the entry; `--to torch` restores the source from it.

    layout, container: what the source was (`Found`). names: key of the source -> canonical name, in its order.

    prefix: what every key began with. counters: BatchNorm -> num_batches_tracked. epoch: None when unknown.
    """

    layout: str = ""
    container: str = ""
    prefix: str = ""
    epoch: Optional[int] = None
    names: Dict[str, str] = field(default_factory=dict)
    counters: Dict[str, int] = field(default_factory=dict)

    def plain(self) -> Dict[str, Any]:
        """As dictionaries and plain values, for the file."""
        return asdict(self)


def read_notes(meta: Mapping[str, Any]) -> Optional[Notes]:
    """The notes in the rest of a checkpoint; None without any; CheckpointError when they are not what we write."""
    entry = meta.get(CONVERSION)
    if entry is None:
        return None
    try:
        notes = Notes(**entry)
    except TypeError:
        raise CheckpointError(f"the entry '{CONVERSION}' is not one of passl-convert; drop it from the file") from None
    good = (all(isinstance(text, str) for text in (notes.layout, notes.container, notes.prefix))
            and (notes.epoch is None or _is_count(notes.epoch))
            and isinstance(notes.names, dict) and isinstance(notes.counters, dict)
            and all(isinstance(text, str) for pair in notes.names.items() for text in pair)
            and all(isinstance(name, str) and _is_count(value) for name, value in notes.counters.items()))
    if not good:
        raise CheckpointError(f"the entry '{CONVERSION}' is damaged; drop it from the file")
    return notes


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63
