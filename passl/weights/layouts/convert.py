"""Conversion between the libraries' layouts, in memory and from file to file.

A converted Paddle file keeps what Paddle has no place for (`notes`); so PyTorch -> Paddle -> PyTorch gives the same
tensors under the same keys in the same order, bit for bit, whatever library they came from. A PyTorch file made from
weights that never had counters gets zeros (int64).
"""
from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple, Union

import numpy as np

from passl.errors import CheckpointError
from passl.weights.formats.reader import Checkpoint, read, widen
from passl.weights.formats.writers import write_paddle, write_safetensors, write_torch
from passl.weights.layouts.description import DESCRIPTION, Description, read_description, told
from passl.weights.layouts.found import CONVERSION, Found, Notes, read_notes
from passl.weights.layouts.keymaps import COUNTER, TRUNK, detectron2_name, paddleclas_name, paddledet_name, passl_name
from passl.weights.layouts.recognise import recognise, under_prefix
from passl.weights.layouts.trunk import refuse_misfits

TARGETS = ("paddle", "torch", "torchvision", "paddleclas", "paddledet", "detectron2", "safetensors")
PARTS = ("all", "trunk")

State = Dict[str, np.ndarray]


@dataclass
class Row:
    """One line of the key table: where an array came from, where it went, and what was done to it."""

    source: str
    target: str
    shape: Tuple[int, ...]
    dtype: str
    change: str


@dataclass
class Conversion:
    """A finished conversion: what was found, the state that was written, and what was left out."""

    found: Found
    state: State
    rows: List[Row] = field(default_factory=list)
    left_out: List[str] = field(default_factory=list)

    def table(self) -> str:
        """Key by key: source, target, shape, dtype, change."""
        cells = [(row.source, row.target, "x".join(map(str, row.shape)) or "scalar", row.dtype, row.change)
                 for row in self.rows]
        widths = [max((len(row[column]) for row in cells), default=0) for column in range(4)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths + [0])).rstrip()
                         for row in cells)


def to_passl_state(checkpoint: Union[str, Checkpoint], *, part: str = "all", layout: Optional[str] = None,
                   allow_unknown: bool = False) -> Tuple[State, Found]:
    """Weights under PASSL's names in Paddle's layout (Linear [in, out], BatchNorm `_mean`, `_variance`), and a `Found`.

    checkpoint: a file or what `read` returned, of any layout in `keymaps.LAYOUTS`. part: "all" or "trunk".
    Arrays keep their dtype and are views of the file where possible (transposed for Linear layers).
    CheckpointError when keys are unknown, unless allow_unknown (they are then listed in `found.unknown`); and always
    when a key inside the trunk is, or has a shape that the architecture does not have.
    """
    canonical, found = _selected(checkpoint, part, layout, allow_unknown)
    return {passl_name(name): array.T if array.ndim == 2 else array for name, array in canonical.items()}, found


def convert(checkpoint: Checkpoint, to: str, *, part: str = "all", layout: Optional[str] = None,
            allow_unknown: bool = False) -> Conversion:
    """The state of `checkpoint` under the names and in the layout of library `to` (of TARGETS), with a key table.

    "torch" means the names of the SwAV releases, counters included; a file that was converted from another library's
    gets the former keys back, in their order. bfloat16 is widened to float32 for detectron2, whose loader knows numpy's
    dtypes only.
    """
    if to not in TARGETS:
        raise CheckpointError(f"unknown target '{to}'; choose one of {', '.join(TARGETS)}")
    canonical, found = _selected(checkpoint, part, layout, allow_unknown)
    kept, left_out = _for_target(canonical, found, to)
    names_of: Dict[str, Callable[[str], str]] = {
        "paddle": passl_name, "paddleclas": partial(paddleclas_name, blocks=found.blocks),
        "paddledet": partial(paddledet_name, blocks=found.blocks), "detectron2": detectron2_name}
    renamed = names_of.get(to)
    if renamed is None:
        notes = read_notes(checkpoint.meta) if to == "torch" and part == "all" else None
        state = _torch_keys(kept, found, notes)
        sources = {id(array): name for name, array in kept.items()}
        rows = [Row(found.sources.get(sources.get(id(array), ""), "-"), key, array.shape, str(array.dtype),
                    "as is" if id(array) in sources else "counter") for key, array in state.items()]
        return Conversion(found, state, rows, left_out)
    names = {name: renamed(name) for name in kept}
    if len(set(names.values())) < len(names):
        raise CheckpointError(f"{checkpoint.path}: has the classifiers fc and linear, {to} has a place for one")
    transposed = to in ("paddle", "paddleclas", "paddledet")
    state, rows = {}, []
    for name, array in kept.items():
        change = "as is"
        if transposed and array.ndim == 2:
            array, change = array.T, "transposed"
        elif to == "detectron2" and array.dtype == np.uint16:
            array, change = widen(array), "float32"
        state[names[name]] = array
        rows.append(Row(found.sources.get(name, "-"), names[name], array.shape, str(array.dtype), change))
    return Conversion(found, state, rows, left_out)


def convert_file(source: str, target: str, to: str = "paddle", *, part: str = "all", layout: Optional[str] = None,
                 allow_unknown: bool = False, inert: Iterable[str] = (), stem: Optional[str] = None,
                 size: Optional[int] = None, prefix: Optional[str] = None) -> Conversion:
    """Read `source`, convert, and write `target` (beside it first, then renamed). See `convert`.

    stem, size: what the source does not say of its network: a key of `passl.models.stems.STEMS`, and the pixels of its
    images. A Paddle file keeps them (`passl.model`). prefix: take only what lies under it.
    """
    source, target = os.path.expanduser(source), os.path.expanduser(target)
    if os.path.isdir(target):
        raise CheckpointError(f"{target} is a folder; give the name of the file to write")
    if os.path.exists(target) and os.path.samefile(source, target):
        raise CheckpointError(f"{target} is the source itself; choose another name")
    checkpoint = told(read(source, inert=inert), stem, size)
    checkpoint = checkpoint if prefix is None else under_prefix(checkpoint, prefix)
    result = convert(checkpoint, to, part=part, layout=layout, allow_unknown=allow_unknown)
    if to == "paddle":
        write_paddle(target, {**result.state, CONVERSION: _notes(checkpoint, result.found).plain(),
                              **_described(checkpoint, result.found)})
    elif to in ("paddleclas", "paddledet"):
        write_paddle(target, result.state)
    elif to == "detectron2":
        write_paddle(target, {"model": result.state, "__author__": "passl", "matching_heuristics": True})
    elif to == "safetensors":
        write_safetensors(target, result.state, {"format": "pt", "source": os.path.basename(source)})
    else:
        write_torch(target, OrderedDict(result.state))
    return result


def _selected(checkpoint, part, layout, allow_unknown) -> Tuple[State, Found]:
    if part not in PARTS:
        raise CheckpointError(f"unknown part '{part}'; choose one of {', '.join(PARTS)}")
    checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else read(checkpoint)
    canonical, found = recognise(checkpoint, layout)
    refuse_misfits(checkpoint.path, f"a {found.architecture}", found.misfits)
    if found.unknown and not allow_unknown:
        shown = ", ".join(found.unknown[:10]) + (", ..." if len(found.unknown) > 10 else "")
        raise CheckpointError(f"{checkpoint.path}: {len(found.unknown)} keys are not known to the layout "
                              f"'{found.layout}': {shown}; allow_unknown (passl-convert --allow-unknown) drops them")
    if part == "trunk":
        canonical = {name: array for name, array in canonical.items() if TRUNK.match(name)}
        if not canonical:
            raise CheckpointError(f"{checkpoint.path}: has no trunk, only "
                                  f"{', '.join(list(found.sources.values())[:4])}")
    return canonical, found


def _for_target(canonical: State, found: Found, to: str) -> Tuple[State, List[str]]:
    """The arrays `to` has a place for, in its terms (a classifier is `fc`), and the keys left out."""
    if to in ("paddle", "torch", "safetensors"):
        return canonical, []
    if "conv1.weight" not in canonical:
        raise CheckpointError(f"{to} takes a ResNet, this is {found.architecture or 'a head without a trunk'}")
    if to in ("paddleclas", "paddledet") and (found.block != "bottleneck" or found.width != 1):
        raise CheckpointError(f"{to} has no network for {found.architecture}: its ResNets are of width x1, and its "
                              "basic blocks have a shortcut convolution where these have none")
    kept, left_out = {}, []
    for name, array in canonical.items():
        stem, _, leaf = name.rpartition(".")
        if TRUNK.match(name):
            kept[name] = array
        elif to in ("torchvision", "paddleclas") and (
                # of SeLa's heads the first, as its authors' own files for torchvision have it
                stem in ("fc", "linear", "top_layer0") or (stem == "projection_head" and not found.prototypes)):
            if f"fc.{leaf}" in kept:
                raise CheckpointError(f"{name} and {found.sources[f'fc.{leaf}']} both are the classifier; {to} has one")
            kept[f"fc.{leaf}"] = array
            found.sources[f"fc.{leaf}"] = found.sources.get(name, "-")
        else:
            left_out.append(found.sources.get(name, name))
    return kept, left_out


def _torch_keys(canonical: State, found: Found, notes: Optional[Notes]) -> State:
    """Canonical names with counters beside the running statistics; former keys and order when `notes` has them."""
    state: State = {}
    for name, array in canonical.items():
        state[name] = array
        stem, _, leaf = name.rpartition(".")
        if leaf == "running_var":
            state[f"{stem}.{COUNTER}"] = np.array(found.counters.get(stem, 0), np.int64)
    if notes is None or not notes.names:
        return _cluster_heads(state, found)
    former: State = {}
    used = set()
    for key, name in notes.names.items():
        if name not in state and name.startswith("fc."):  # PASSL has one place for fc and linear
            name = f"linear.{name[3:]}"
        if name in state:
            former[key] = state[name]
            used.add(name)
    for name, array in state.items():
        made_up = name.endswith(COUNTER) or name == "projection_head.0.bias"  # where the source had none
        if name not in used and not (made_up and not array.any()):
            former[notes.prefix + name] = array
    return former


def _cluster_heads(state: State, found: Found) -> State:
    """SeLa's own networks call a single head `top_layer` (in a Sequential for ResNets), several `top_layer0`, ..."""
    if "top_layer0.weight" not in state or "top_layer1.weight" in state:
        return state
    single = "top_layer" if found.architecture == "alexnet" else "top_layer.0"
    return {name.replace("top_layer0", single): array for name, array in state.items()}


def _described(checkpoint: Checkpoint, found: Found) -> Dict[str, Dict[str, Any]]:
    """The entry `passl.model` of a converted file: what the source says, and the stem where its library tells it."""
    described = read_description(checkpoint.meta)
    if found.stem_known and not described.stem:
        backbone = {**described.backbone, "stem": found.stem}
        described = replace(described, model={**described.model, "backbone": backbone})
    return {} if described == Description() else {DESCRIPTION: described.plain()}


def _notes(checkpoint: Checkpoint, found: Found) -> Notes:
    """Those of an earlier conversion, or new ones; a Paddle file that never was anything else has no former keys."""
    names = dict(found.names) if found.container != "paddle" else {}
    return read_notes(checkpoint.meta) or Notes(found.layout, found.container, found.prefix, found.epoch, names,
                                                dict(found.counters))
