"""Putting weights into a layer, with an account of every key."""
from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Set, Tuple, Union

import numpy as np

from passl.errors import CheckpointError, UserError
from passl.models.stems import STEMS
from passl.weights.formats.reader import Checkpoint, read, widen
from passl.weights.layouts.convert import PARTS, to_passl_state
from passl.weights.layouts.description import read_description
from passl.weights.layouts.keymaps import COUNTER, STATISTICS, TRUNK
from passl.weights.layouts.recognise import under_prefix
from passl.weights.layouts.trunk import inside_trunk, refuse_misfits

STRICT = ("trunk", "all", "none")
_ROOTS = ("", "res_model.", "res_model.encoder.", "encoder.")
_OWN = ("res_model.", "encoder.", "projection_head.", "prototypes.", "linear.linear.", "linear.bn.")
_TORCH_STATISTICS = {paddle: torch for torch, paddle in STATISTICS.items()}


@dataclass
class LoadReport:
    """What happened to every key: names are the layer's for loaded, missing and wrong_shape, the file's for ignored.

    `ignored` includes the heads that were not asked for. prefix: under which the trunk was found in the file, where not
    every key has it.
    """

    source: str
    loaded: List[str] = field(default_factory=list)
    missing: List[str] = field(default_factory=list)
    wrong_shape: List[Tuple[str, Tuple[int, ...], Tuple[int, ...]]] = field(default_factory=list)
    ignored: List[str] = field(default_factory=list)
    prefix: str = ""

    def table(self) -> str:
        """Counts per group of names (encoder, projection_head, prototypes, ...), one line each."""
        lines = [f"weights from {self.source}" + (f", under '{self.prefix}'" if self.prefix else "")]
        for label, names in (("loaded", self.loaded), ("missing in the file", self.missing),
                             ("wrong shape", [name for name, _, _ in self.wrong_shape]),
                             ("not used by the model", self.ignored)):
            for group, members in _groups(names).items():
                shown = f": {', '.join(members)}" if label != "loaded" and len(members) <= 4 else ""
                lines.append(f"  {label:<22}{len(members):>5}  {group}{shown}")
        lines += [f"    {name}: file {list(theirs)}, model {list(ours)}" for name, theirs, ours in self.wrong_shape[:8]]
        return "\n".join(lines)

    __str__ = table


def load_into(layer, source: Union[str, "os.PathLike[str]", Checkpoint, Mapping[str, np.ndarray]], *,
              strict: str = "trunk", part: str = "all", prefix: Optional[str] = None) -> LoadReport:
    """Copy weights into `layer` (any paddle.nn.Layer) and tell what became of every key.

    source: a weight file of this library (of any trunk) or of another one it knows, what `read` returned, or a state of
        PASSL names in Paddle's layout.
    Names are matched exactly, under one prefix for the whole file: a full PASSL state goes into the pretraining model,
    into its network or into the bare trunk alike, wherever the trunk sits in `layer`.
    part: "trunk" leaves the file's heads unused.
    prefix: take only what lies under it in a file ("encoder_q."); None looks for a known trunk.
    strict: "trunk" - every trunk weight of the layer must be loaded, heads may differ (they keep their own values, for
        instance a prototype layer of another size); "all" - every weight of the layer; "none" - whatever fits.
    CheckpointError, with the table, when the strictness is not met or when not one trunk weight matches a layer that
    has a trunk; when the file has weights inside the trunk that the layer has not, or says another stem; for weights
    that are NaN or infinite. Nothing is written to the layer in that case. dtypes are cast to the layer's.
    """
    if strict not in STRICT:
        raise UserError(f"strict must be one of {', '.join(STRICT)}, not '{strict}'")
    if part not in PARTS:
        raise UserError(f"part must be one of {', '.join(PARTS)}, not '{part}'")
    label, ignored, stem, inner = "a state dict", [], None, ""
    if isinstance(source, (str, os.PathLike)):
        source = read(source)
    if isinstance(source, Checkpoint):
        source = source if prefix is None else under_prefix(source, prefix)
        label = source.path
        stem = read_description(source.meta).stem
        if is_own(source):
            source = source.tensors
    if isinstance(source, Checkpoint):
        state, found = to_passl_state(source, part=part, allow_unknown=True)
        ignored, inner = found.ignored + found.unknown, found.prefix if found.inner_prefix else ""
        stem = found.stem if found.stem_known else stem
        dropped = [key for name, key in found.sources.items() if part == "trunk" and not TRUNK.match(name)]
    else:
        state = {name: array for name, array in source.items() if part == "all" or _is_trunk(name)}
        dropped = [name for name in source if name not in state]
    ours = layer.state_dict()
    if strict != "none":
        _refuse_other_stem(layer, label, stem)
    pairs = _match(list(ours), list(state))
    used = set(pairs.values())
    report = LoadReport(label, ignored=[*ignored, *(name for name in state if name not in used), *dropped],
                        prefix=inner)
    for name, tensor in ours.items():
        if name not in pairs:
            report.missing.append(name)
        elif tuple(tensor.shape) != state[pairs[name]].shape:
            report.wrong_shape.append((name, state[pairs[name]].shape, tuple(tensor.shape)))
        else:
            report.loaded.append(name)
    is_bare_trunk = hasattr(layer, "stages")
    trunk = {name for name in ours if is_bare_trunk or _is_trunk(name)}
    _enforce(report, list(ours), trunk, strict)
    if strict != "none":
        strays = inside_trunk([name for name in state if name not in used],
                              [source for name, source in pairs.items() if name in trunk])
        refuse_misfits(label, "the model's", [f"{name} {list(state[name].shape)}: the model has no such weight"
                                              for name in strays])
    _refuse_broken(report, {name: state[pairs[name]] for name in report.loaded})
    for name in report.loaded:
        _assign(ours[name], state[pairs[name]])
    return report


def _refuse_other_stem(layer, label: str, stem: Optional[str]) -> None:
    """The weights fit every stem of the same kernel; the features do not."""
    ours = next((one.stem for one in layer.sublayers(include_self=True) if isinstance(getattr(one, "stem", None), str)),
                None)
    if ours in STEMS and stem in STEMS and ours != stem and STEMS[ours][0] == STEMS[stem][0]:
        raise CheckpointError(f"{label} is of a network with the stem '{stem}', the model has '{ours}'; the weights "
                              "fit both and the features would be wrong: set Model.backbone.stem to that of the file. "
                              "If the file is mistaken, write another with passl-convert --stem")


def _match(ours: List[str], theirs: List[str]) -> Dict[str, str]:
    """Layer name -> file name, under the pair of prefixes that matches most names."""
    ends: Dict[str, List[str]] = {}  # end of a layer's name -> what may stand before it
    for name in ours:
        parts = name.split(".")
        for start in range(len(parts)):
            ends.setdefault(".".join(parts[start:]), []).append("".join(f"{part}." for part in parts[:start]))
    best: Dict[str, str] = {}
    for root in _ROOTS:
        shorts = {name[len(root):]: name for name in theirs if name.startswith(root)}
        counts = Counter(place for short in shorts for place in ends.get(short, ()))
        place = min(counts, key=lambda place: (-counts[place], len(place), place), default="")
        if counts[place] > len(best):
            best = {place + short: name for short, name in shorts.items() if place in ends.get(short, ())}
    return best


def is_own(checkpoint: Checkpoint) -> bool:
    """Whether a file's keys are those that this library's networks have, whatever their trunk."""
    names = list(checkpoint.tensors)
    leaves = {name.rpartition(".")[2] for name in names}
    in_paddle_layout = checkpoint.format == "paddle" or leaves & set(_TORCH_STATISTICS)
    return bool(names and in_paddle_layout and not leaves & {*STATISTICS, COUNTER}
                and all(name.startswith(_OWN) for name in names))


def _is_trunk(name: str) -> bool:
    """Whether a layer's name is a trunk weight, at any depth of the layer."""
    stem, _, leaf = name.rpartition(".")
    parts = f"{stem}.{_TORCH_STATISTICS.get(leaf, leaf)}".split(".")
    return "encoder" in parts or not any(head in parts for head in ("projection_head", "prototypes", "linear")) and any(
        TRUNK.match(".".join(parts[start:])) for start in range(len(parts)))


def _enforce(report: LoadReport, ours: List[str], trunk: Set[str], strict: str) -> None:
    bad = set(report.missing) | {name for name, _, _ in report.wrong_shape}
    if not report.loaded or (trunk and not trunk & set(report.loaded)):
        raise CheckpointError(f"nothing of the {'trunk' if trunk else 'model'} matches; the model would keep its "
                              f"random weights. Is it the same architecture?\n{report.table()}\n"
                              f"  the model expects, for example, {', '.join(ours[:3])}")
    if strict == "trunk" and trunk & bad:
        raise CheckpointError(f"{len(trunk & bad)} trunk weights are missing or of another shape\n{report.table()}")
    if strict == "all" and bad:
        raise CheckpointError(f"{len(bad)} weights are missing or of another shape\n{report.table()}")


def _refuse_broken(report: LoadReport, arrays: Mapping[str, np.ndarray]) -> None:
    """NaN and infinity spread to every output, where they look like answers."""
    broken = [name for name, array in arrays.items() if not np.isfinite(widen(array)).all()]
    if broken:
        raise CheckpointError(f"{report.source}: {len(broken)} of {len(arrays)} weights hold NaN or infinity, the "
                              f"first is {broken[0]}: the run that wrote them has diverged, or the file is damaged; "
                              "take an earlier checkpoint")


def _assign(tensor, array: np.ndarray) -> None:
    import paddle

    array = np.require(array, requirements=["C", "A"])
    kind = str(tensor.dtype).rpartition(".")[2]
    if kind == "bfloat16":
        tensor.set_value(paddle.to_tensor(widen(array)).astype("bfloat16"))
    else:
        tensor.set_value(widen(array).astype(kind, copy=False))


def _groups(names: List[str]) -> Dict[str, List[str]]:
    grouped: Dict[str, List[str]] = {}
    for name in names:
        parts = [part for part in name.split(".") if part not in ("module", "res_model", "model")]
        grouped.setdefault("trunk" if _is_trunk(name) else parts[0], []).append(name)
    return grouped
