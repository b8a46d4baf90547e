"""What a checkpoint is, from its keys and shapes: library, architecture, width, heads."""
from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

import numpy as np

from .errors import CheckpointError
from .keymaps import COUNTER, LAYOUTS, STATISTICS, TRUNK, Layout, paddleclas_stages
from .reader import Checkpoint, widen

CONVERSION = "passl.conversion"  # entry of converted Paddle files that keeps what Paddle has no place for
_PREFIXES = ("module.", "model.", "_orig_mod.", "network.")
_PADDLE_STATISTICS = {paddle: torch for torch, paddle in STATISTICS.items()}
_DEPTHS = {("bottleneck", (3, 4, 6, 3)): "resnet50", ("bottleneck", (3, 4, 23, 3)): "resnet101",
           ("bottleneck", (3, 8, 36, 3)): "resnet152", ("basic", (2, 2, 2, 2)): "resnet18",
           ("basic", (3, 4, 6, 3)): "resnet34", ("bottleneck", (2, 2, 2, 2)): "resnet26"}


@dataclass
class Found:
    """What a checkpoint holds.

    layout: key of `keymaps.LAYOUTS`. architecture: "resnet50", "resnet50w2", "alexnet", "resnet50-preactivation",
    "bottleneck [1, 1, 1, 1]", ... or "" when there is no trunk. width: channel multiplier (None: not a multiple of 64).
    hidden, embedding: sizes of the projection head (0: absent, or a single Linear for `hidden`).
    prototypes: their number per head. classes: outputs of a classifier, probe or SeLa cluster head.
    counters: BatchNorm's num_batches_tracked, which Paddle does not have, by canonical name of the BatchNorm.
    sources: canonical name -> key in the file. ignored, unknown: keys left out.
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
    classes: List[int] = field(default_factory=list)
    stem_kernel: int = 0
    epoch: Optional[int] = None
    wrapper: str = ""
    prefix: str = ""
    counters: Dict[str, int] = field(default_factory=dict)
    sources: Dict[str, str] = field(default_factory=dict)
    ignored: List[str] = field(default_factory=list)
    unknown: List[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        if self.prototypes:
            return ("SwAV pretraining" if len(self.prototypes) == 1 else
                    f"DeepCluster-v2 or SeLa-v2 pretraining ({len(self.prototypes)} prototype heads)")
        if self.classes and not self.architecture:
            return "linear probe"
        if self.layout.startswith("sela"):
            return "SeLa pretraining"
        return "classifier" if self.classes else "trunk"

    def describe(self) -> str:
        """A few lines for people: what `passl-convert` prints."""
        lines = [("file", f"{self.container}, keys of {LAYOUTS[self.layout].name}"), ("content", self.kind)]
        if self.architecture:
            width = "" if self.width is None else f", width x{self.width:g}"
            lines.append(("architecture", f"{self.architecture}{width}, {self.features} features"))
        if self.embedding:
            norm = "with batch norm" if self.head_batch_norm else "without batch norm"
            lines.append(("projection head", f"{self.hidden} hidden, {norm}, {self.embedding} outputs" if self.hidden
                          else f"one Linear, {self.embedding} outputs"))
        if self.prototypes:
            lines.append(("prototypes", " + ".join(map(str, self.prototypes))))
        if self.classes:
            lines.append(("classes", " + ".join(map(str, self.classes))))
        if self.epoch is not None:
            lines.append(("epoch", str(self.epoch)))
        for label, keys in (("left out", self.ignored), ("unknown keys", self.unknown)):
            if keys:
                lines.append((label, ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")))
        return "\n".join(f"{label:<16}{text}" for label, text in lines)


def recognise(checkpoint: Checkpoint, layout: Optional[str] = None) -> Tuple[Dict[str, np.ndarray], Found]:
    """(weights in canonical names and PyTorch layout, what was found). Arrays are views of the checkpoint's.

    layout: a key of LAYOUTS; None tries all and takes the one that explains most keys.
    CheckpointError when no key belongs to a known network.
    """
    if layout is not None and layout not in LAYOUTS:
        raise CheckpointError(f"unknown layout '{layout}'; known: {', '.join(LAYOUTS)}")
    keys = list(checkpoint.tensors)
    prefix, stripped = strip_prefixes(keys)
    candidates = [layout] if layout else list(LAYOUTS)
    name = max(candidates, key=lambda candidate: _explained(LAYOUTS[candidate], stripped))
    chosen = LAYOUTS[name]
    if not _explained(chosen, stripped):
        raise CheckpointError(f"{checkpoint.path}: none of its {len(keys)} keys belongs to a known network (first: "
                              f"{', '.join(keys[:4]) or 'no arrays at all'})")
    found = Found(name, checkpoint.format, wrapper=checkpoint.wrapper, prefix=prefix)
    canonical: Dict[str, np.ndarray] = {}
    paddle_layout = _is_paddle(chosen, stripped)
    for key, short in zip(keys, stripped):
        target = chosen.canonical(short)
        if target is None:
            (found.ignored if chosen.ignores(short) else found.unknown).append(key)
            continue
        stem, _, leaf = target.rpartition(".")
        if leaf == COUNTER:
            found.counters[stem] = int(checkpoint.tensors[key].reshape(-1)[0]) if checkpoint.tensors[key].size else 0
            continue
        target = f"{stem}.{_PADDLE_STATISTICS.get(leaf, leaf)}"
        if target in canonical:
            raise CheckpointError(f"{checkpoint.path}: '{key}' and '{found.sources[target]}' are both {target}")
        array = checkpoint.tensors[key]
        canonical[target] = array.T if paddle_layout and array.ndim == 2 else array
        found.sources[target] = key
    canonical = _settled(canonical, found, chosen)
    _take_notes(checkpoint, found)
    _measure(canonical, found)
    return canonical, found


def strip_prefixes(keys: List[str]) -> Tuple[str, List[str]]:
    """Wrapper prefixes that every key carries, and the keys without them; `module.` inside a name stays."""
    removed = ""
    while keys:
        for prefix in _PREFIXES:
            if all(key.startswith(prefix) for key in keys):
                removed += prefix
                keys = [key[len(prefix):] for key in keys]
                break
        else:
            break
    return removed, keys


def _explained(layout: Layout, keys: List[str]) -> int:
    return sum(layout.canonical(key) is not None for key in keys)


def _is_paddle(layout: Layout, keys: List[str]) -> bool:
    """BatchNorm's names tell the framework; heads without any follow the layout."""
    leaves = {key.rpartition(".")[2] for key in keys}
    if leaves & set(STATISTICS):
        return False
    return True if leaves & set(_PADDLE_STATISTICS) else layout.paddle


def _settled(canonical: Dict[str, np.ndarray], found: Found, layout: Layout) -> Dict[str, np.ndarray]:
    """Peculiarities of a layout that need more than one key."""
    if found.layout == "paddleclas":
        blocks = {int(name.split(".")[1]) for name in canonical if name.startswith("block.")}
        starts = sorted(int(name.split(".")[1]) for name in canonical if name.endswith("downsample.0.weight"))
        if len(starts) != 4 or min(blocks) != starts[0]:
            raise CheckpointError("PaddleClas ResNet whose four stages cannot be told apart")
        renamed = {}
        for name in canonical:
            parts = name.split(".", 2)
            renamed[name] = f"{paddleclas_stages(starts, int(parts[1]))}.{parts[2]}" if parts[0] == "block" else name
        found.sources = {renamed[name]: key for name, key in found.sources.items()}
        canonical = {renamed[name]: array for name, array in canonical.items()}
    if layout.single_head and "prototypes.prototypes0.weight" in canonical \
            and "prototypes.prototypes1.weight" not in canonical:
        canonical["prototypes.weight"] = canonical.pop("prototypes.prototypes0.weight")
        found.sources["prototypes.weight"] = found.sources.pop("prototypes.prototypes0.weight")
    if "prototypes.weight_v" in canonical:  # torch.nn.utils.weight_norm: weight = g * v / |v|, row by row
        direction, length = widen(canonical.pop("prototypes.weight_v")), widen(canonical.pop("prototypes.weight_g"))
        norm = np.sqrt((direction.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
        canonical["prototypes.weight"] = (direction * (length.reshape(-1, 1) / norm)).astype(np.float32)
        found.sources["prototypes.weight"] = found.sources.pop("prototypes.weight_v")
        found.sources.pop("prototypes.weight_g")
    first = "projection_head.0.weight"
    if first in canonical and "projection_head.0.bias" not in canonical:  # lightly: no bias before batch norm
        canonical["projection_head.0.bias"] = np.zeros(canonical[first].shape[0], np.float32)
    return canonical


def _take_notes(checkpoint: Checkpoint, found: Found) -> None:
    """Epoch and BatchNorm counters, from the checkpoint or from an earlier conversion's record."""
    notes = checkpoint.meta.get(CONVERSION)
    if isinstance(notes, dict):
        found.counters.update(notes.get("counters", {}))
        found.epoch = notes.get("epoch")
    for holder in (checkpoint.meta, checkpoint.meta.get("meta")):
        if isinstance(holder, dict) and isinstance(holder.get("epoch"), int):
            found.epoch = holder["epoch"]


def _measure(canonical: Dict[str, np.ndarray], found: Found) -> None:
    shape = {name: array.shape for name, array in canonical.items()}
    if "conv1.weight" in shape and len(shape["conv1.weight"]) == 4:
        _measure_resnet(shape, found)
    elif "classifier.1.weight" in shape:
        found.architecture, found.features = "alexnet", shape["classifier.4.weight"][0]
        found.width = None
    elif any(TRUNK.match(name) for name in shape):
        found.architecture, found.block = "resnet50-preactivation", "preactivation"
        found.blocks = _count(shape, r"features\.(\d+)\.(\d+)\.", 2)
        found.features = max((size[0] for name, size in shape.items() if name.startswith("features.5.")), default=0)
    two_d = {name: size for name, size in shape.items() if len(size) == 2}
    found.prototypes = [two_d[name][0] for name in sorted(two_d, key=_natural) if name.startswith("prototypes.")]
    outputs = [name for name in sorted(two_d, key=_natural) if name.startswith("projection_head.")]
    if outputs == ["projection_head.weight"] and not found.prototypes:
        found.classes = [two_d["projection_head.weight"][0]]  # the classifier of eval_semisup
    elif outputs:
        found.embedding = two_d[outputs[-1]][0]
        found.hidden = two_d[outputs[0]][0] if len(outputs) > 1 else 0
        found.head_batch_norm = "projection_head.1.running_mean" in shape
    for name in sorted(two_d, key=_natural):
        if name.startswith(("fc.", "linear.", "top_layer")):
            found.classes.append(two_d[name][0])


def _measure_resnet(shape: Dict[str, Tuple[int, ...]], found: Found) -> None:
    channels, _, found.stem_kernel, _ = shape["conv1.weight"]
    found.width = channels / 64 if channels % 64 == 0 else None
    found.blocks = _count(shape, r"layer(\d)\.(\d+)\.", 1)
    found.block = "bottleneck" if "layer1.0.conv3.weight" in shape else "basic"
    last = "conv3" if found.block == "bottleneck" else "conv2"
    found.features = shape.get(f"layer4.0.{last}.weight", (0,))[0]
    name = _DEPTHS.get((found.block, found.blocks), f"{found.block} {list(found.blocks)}")
    found.architecture = name if found.width in (None, 1) else f"{name}w{found.width:g}"


def _count(shape: Dict[str, Tuple[int, ...]], pattern: str, first: int) -> Tuple[int, ...]:
    counts = [0, 0, 0, 0]
    for name in shape:
        match = re.match(pattern, name)
        if match and 0 <= int(match[1]) - first < 4:
            counts[int(match[1]) - first] = max(counts[int(match[1]) - first], int(match[2]) + 1)
    return tuple(counts)


def _natural(name: str):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
