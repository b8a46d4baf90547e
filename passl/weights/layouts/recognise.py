"""What a checkpoint is, from its keys and shapes: library, architecture, width, heads."""
from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from passl.errors import CheckpointError
from passl.models.stems import STEMS
from passl.weights.formats.reader import Checkpoint, widen
from passl.weights.formats.tree import flatten
from passl.weights.layouts.description import read_description
from passl.weights.layouts.found import Found, read_notes
from passl.weights.layouts.keymaps import COUNTER, LAYOUTS, STATISTICS, TRUNK, Layout, paddleclas_stages
from passl.weights.layouts.trunk import inside_trunk, misfits_of_resnet, resnet_shapes

BESIDE = "<beside> "  # before a key that does not lie where the trunk lies: no library's pattern knows it
_DEEP = ("layer4.", "block.", "features.5.", "features.14.")  # canonical names of the last stages: a whole trunk
_PREFIXES = ("module.", "model.", "_orig_mod.", "network.")
_PADDLE_STATISTICS = {paddle: torch for torch, paddle in STATISTICS.items()}
_DEPTHS: Dict[Tuple[str, Tuple[int, ...]], str] = {
    ("bottleneck", (3, 4, 6, 3)): "resnet50", ("bottleneck", (3, 4, 23, 3)): "resnet101",
    ("bottleneck", (3, 8, 36, 3)): "resnet152", ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (3, 4, 6, 3)): "resnet34", ("bottleneck", (2, 2, 2, 2)): "resnet26", ("basic", (1, 1, 1, 1)): "resnet10"}


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
    known, inner = _explained(LAYOUTS[name], stripped), ""
    if known < len(keys):
        inner, inside = prefix_of_trunk(stripped, candidates)
        inner = inner if inside > known else ""
    if inner:
        prefix += inner
        stripped = [key[len(inner):] if key.startswith(inner) else f"{BESIDE}{key}" for key in stripped]
        name = max(candidates, key=lambda candidate: _explained(LAYOUTS[candidate], stripped))
    chosen = LAYOUTS[name]
    if not _explained(chosen, stripped):
        raise CheckpointError(f"{checkpoint.path}: {_nothing_known(checkpoint)}")
    found = Found(name, checkpoint.format, wrapper=checkpoint.wrapper, prefix=prefix, inner_prefix=inner)
    canonical: Dict[str, np.ndarray] = {}
    duplicates: Dict[str, str] = {}
    paddle_layout = _is_paddle(chosen, stripped)
    for key, short in zip(keys, stripped):
        target = chosen.canonical(short)
        if target is None and (second := chosen.duplicate(short)):
            duplicates[key] = second
            continue
        if target is None:
            (found.ignored if chosen.ignores(short) else found.unknown).append(key)
            continue
        stem, _, leaf = target.rpartition(".")
        if leaf == COUNTER:
            found.counters[stem] = _counter(checkpoint, key)
            found.names[key] = target
            continue
        target = found.names[key] = _torch_name(target)
        if target in canonical:
            raise CheckpointError(f"{checkpoint.path}: '{key}' and '{found.sources[target]}' are both {target}")
        array = checkpoint.tensors[key]
        canonical[target] = array.T if paddle_layout and array.ndim == 2 else array
        found.sources[target] = key
    for key, target in duplicates.items():
        _take_duplicate(checkpoint, key, _torch_name(target), canonical, found)
    canonical = _settled(canonical, found, chosen)
    former = {key: target for target, key in found.sources.items()}
    found.names = {key: former.get(key, found.names[key]) for key in keys if key in found.names}
    _take_notes(checkpoint, found)
    _measure(canonical, found)
    _fit(checkpoint, canonical, found)
    _take_stem(checkpoint, found)
    return canonical, found


def _take_stem(checkpoint: Checkpoint, found: Found) -> None:
    """The stem as the file says it, else as its library builds it for a kernel of this size, else a guess."""
    if found.block not in ("basic", "bottleneck"):
        return
    said = read_description(checkpoint.meta).stem
    by_library = _stem_of_libraries(found) if found.stem_kernel == 3 else "imagenet"
    found.stem, found.stem_known = said or by_library or "small", bool(said or by_library)
    if said and STEMS.get(said, [found.stem_kernel])[0] != found.stem_kernel:
        raise CheckpointError(f"{checkpoint.path}: the first convolution is {found.stem_kernel}x{found.stem_kernel}, "
                              f"which is not the stem '{said}'")


def _stem_of_libraries(found: Found) -> str:
    """The 3x3 stem of the library whose keys these are; "" when several libraries call everything so and differ."""
    former = [key for key in found.names if not found.prefix or key.startswith(found.prefix)]
    keys = [key[len(found.prefix):] for key in former] if found.origin == found.layout else found.former
    scores = {name: _explained(layout, keys) for name, layout in LAYOUTS.items()}
    stems = {LAYOUTS[name].small_stem for name, score in scores.items() if score >= scores[found.origin]}
    return stems.pop() if len(stems) == 1 else ""


def _fit(checkpoint: Checkpoint, canonical: Dict[str, np.ndarray], found: Found) -> None:
    """Note what is inside the trunk and is not of the architecture that it was measured to be."""
    trunk = {name: array.shape for name, array in canonical.items() if TRUNK.match(name)}
    what = found.architecture or "known trunk"
    if found.block in ("basic", "bottleneck"):
        expected = resnet_shapes(found.block, found.blocks, trunk["conv1.weight"][0], found.stem_kernel)
        found.misfits = misfits_of_resnet(trunk, expected, what)
        if found.stem_kernel not in (3, 7):
            found.misfits.insert(0, f"conv1.weight {list(trunk['conv1.weight'])}: a first convolution of 7x7 or 3x3 is "
                                    "known")
    keys = inside_trunk(found.unknown, [found.sources[name] for name in trunk])
    found.misfits += [f"{key} {list(checkpoint.tensors[key].shape)}: a {what} has no such weight" for key in keys]


def _nothing_known(checkpoint: Checkpoint) -> str:
    """Why a file cannot be recognised, with the places of arrays that were not looked at."""
    if checkpoint.tensors:
        return (f"none of its {len(checkpoint.tensors)} keys belongs to a known network (first: "
                f"{', '.join(list(checkpoint.tensors)[:4]) or 'one array without a name'})")
    holders = {str(key): len(flatten(value)[0]) for key, value in checkpoint.meta.items() if isinstance(value, Mapping)}
    shown = ", ".join(f"'{key}' ({count})" for key, count in holders.items() if count)
    if not shown:
        return "holds no arrays"
    return f"its arrays lie under {shown}; save the weights alone, or under 'state_dict' or 'model'"


def _counter(checkpoint: Checkpoint, key: str) -> int:
    array = checkpoint.tensors[key]
    value = array.reshape(-1)[0] if array.size else 0
    if array.dtype.kind not in "iuf" or array.size > 1 or not np.isfinite(value) or not abs(float(value)) < 2.0 ** 63:
        raise CheckpointError(f"{checkpoint.path}: '{key}' is no counter of batches: {str(array.tolist())[:60]}")
    return int(value)


def _torch_name(target: str) -> str:
    stem, _, leaf = target.rpartition(".")
    return f"{stem}.{_PADDLE_STATISTICS.get(leaf, leaf)}"


def _take_duplicate(checkpoint: Checkpoint, key: str, target: str, canonical: Dict[str, np.ndarray],
                    found: Found) -> None:
    """Note that `key` names `target` a second time; a key with values of its own is unknown."""
    stem, _, leaf = target.rpartition(".")
    if leaf == COUNTER:
        same = found.counters.get(stem) == _counter(checkpoint, key)
    else:
        array, other = checkpoint.tensors[key], canonical.get(target)
        same = other is not None and array.dtype == other.dtype and array.tobytes() == other.tobytes()
    if same:
        found.names[key] = target
    else:
        found.unknown.append(key)


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


def prefix_of_trunk(keys: Sequence[str], candidates: Sequence[str] = tuple(LAYOUTS)) -> Tuple[str, int]:
    """The prefix under which a known trunk lies (`net.`, `encoder_q.`), and how many keys below it are known.

    Of several that are equal it is the first in the file, so the online network goes before its momentum copy.
    """
    prefixes: Dict[str, None] = {}  # in the file's order
    for key in keys:
        parts = key.split(".")
        for start in range(1, len(parts) - 1):
            suffix = ".".join(parts[start:])
            if any(LAYOUTS[name].canonical(suffix) in ("conv1.weight", "features.0.weight") for name in candidates):
                prefixes["".join(f"{part}." for part in parts[:start])] = None
    best, most = "", 0
    for prefix in prefixes:
        inner = [key[len(prefix):] for key in keys if key.startswith(prefix)]
        for name in candidates:
            known = list(filter(None, map(LAYOUTS[name].canonical, inner)))
            if len(known) > most and any(target.startswith(_DEEP) for target in known):
                best, most = prefix, len(known)
    return best, most


def under_prefix(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    """The part of a checkpoint whose keys begin with `prefix`, without it; CheckpointError tells which there are."""
    prefix = f"{prefix.rstrip('.')}."
    tensors = {key[len(prefix):]: array for key, array in checkpoint.tensors.items() if key.startswith(prefix)}
    if not tensors:
        first = sorted({f"{key.split('.')[0]}." for key in checkpoint.tensors if "." in key})
        trunk, _ = prefix_of_trunk(list(checkpoint.tensors))
        raise CheckpointError(f"{checkpoint.path}: no key begins with '{prefix}'; keys begin with "
                              f"{', '.join(first[:8]) or 'nothing in common'}"
                              + (f"; a known trunk lies under '{trunk}'" if trunk else ""))
    return replace(checkpoint, tensors=tensors)


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
    if layout.single_head and "prototypes.prototypes1.weight" not in canonical:
        for leaf in ("weight", "bias"):
            if f"prototypes.prototypes0.{leaf}" in canonical:
                canonical[f"prototypes.{leaf}"] = canonical.pop(f"prototypes.prototypes0.{leaf}")
                found.sources[f"prototypes.{leaf}"] = found.sources.pop(f"prototypes.prototypes0.{leaf}")
    if layout.online_classifier and any(name.startswith("projection_head.") for name in canonical):
        for leaf in ("weight", "bias"):
            if canonical.pop(f"fc.{leaf}", None) is not None:
                found.ignored.append(found.sources.pop(f"fc.{leaf}"))
                del found.names[found.ignored[-1]]
    if "prototypes.weight_v" in canonical:  # torch.nn.utils.weight_norm: weight = g * v / |v|, row by row
        direction, length = widen(canonical.pop("prototypes.weight_v")), widen(canonical.pop("prototypes.weight_g"))
        norm = np.sqrt((direction.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
        canonical["prototypes.weight"] = (direction * (length.reshape(-1, 1) / norm)).astype(np.float32)
        found.sources["prototypes.weight"] = found.sources.pop("prototypes.weight_v")
        found.sources.pop("prototypes.weight_g")
        found.names = {key: name for key, name in found.names.items() if not name.startswith("prototypes.weight_")}
    first = "projection_head.0.weight"
    if first in canonical and "projection_head.0.bias" not in canonical:  # lightly: no bias before batch norm
        canonical["projection_head.0.bias"] = np.zeros(canonical[first].shape[0], np.float32)
    return canonical


def _take_notes(checkpoint: Checkpoint, found: Found) -> None:
    """Epoch and BatchNorm counters, from the checkpoint or from an earlier conversion's record."""
    try:
        notes = read_notes(checkpoint.meta)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from None
    found.origin = found.layout
    if notes is not None:
        found.origin = notes.layout if notes.layout in LAYOUTS else found.layout
        found.former = [key[len(notes.prefix):] for key in notes.names]
        found.counters.update(notes.counters)
        found.epoch = notes.epoch
    for holder in (checkpoint.meta, checkpoint.meta.get("meta")):
        epoch = _whole_number(holder.get("epoch")) if isinstance(holder, dict) else None
        found.epoch = found.epoch if epoch is None else epoch


def _whole_number(value: Any) -> Optional[int]:
    """A number as int, also from a tensor of one element; None for anything else."""
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "iu":
        return int(value.reshape(-1)[0])
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _measure(canonical: Dict[str, np.ndarray], found: Found) -> None:
    shape = {name: array.shape for name, array in canonical.items()}
    if len(shape.get("conv1.weight", ())) == 4:
        _measure_resnet(shape, found)
    elif "features.4.weight" in shape:  # in a pre-activation ResNet, features.4 is a stage of blocks
        found.architecture, found.features = "alexnet", _rows(shape, "classifier.4.weight")
    elif "features.2.0.conv1.weight" in shape:
        found.architecture, found.block = "resnet50-preactivation", "preactivation"
        found.blocks = _count(shape, r"features\.(\d+)\.(\d+)\.", 2)
        found.features = max((_rows(shape, name) for name in shape if name.startswith("features.5.")), default=0)
    two_d = {name: size for name, size in shape.items() if len(size) == 2}
    found.prototype_bias = any(name.startswith("prototypes.") and name.endswith(".bias") for name in shape)
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


def _rows(shape: Mapping[str, Tuple[int, ...]], name: str) -> int:
    """The first size of an array: its outputs; 0 when it is missing or a scalar."""
    return (shape.get(name) or (0,))[0]


def _measure_resnet(shape: Dict[str, Tuple[int, ...]], found: Found) -> None:
    channels, _, found.stem_kernel, _ = shape["conv1.weight"]
    found.width = channels / 64 if channels % 64 == 0 else None
    found.blocks = _count(shape, r"layer(\d)\.(\d+)\.", 1)
    found.block = "bottleneck" if "layer1.0.conv3.weight" in shape else "basic"
    last = "conv3" if found.block == "bottleneck" else "conv2"
    found.features = _rows(shape, f"layer4.0.{last}.weight")
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
