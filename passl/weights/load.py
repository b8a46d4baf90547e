"""Putting weights into a layer, with an account of every key."""
from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import numpy as np

from passl.errors import CheckpointError, UserError
from passl.weights.formats.reader import Checkpoint, read, widen
from passl.weights.layouts.convert import PARTS, to_passl_state
from passl.weights.layouts.found import Found
from passl.weights.layouts.keymaps import STATISTICS, TRUNK

STRICT = ("trunk", "all", "none")
_ROOTS = ("", "res_model.", "res_model.encoder.", "encoder.")
_TORCH_STATISTICS = {paddle: torch for torch, paddle in STATISTICS.items()}


@dataclass
class LoadReport:
    """What happened to every key: names are the layer's for loaded, missing and wrong_shape, the file's for ignored.

    `ignored` includes the heads that were not asked for.
    """

    source: str
    loaded: List[str] = field(default_factory=list)
    missing: List[str] = field(default_factory=list)
    wrong_shape: List[Tuple[str, Tuple[int, ...], Tuple[int, ...]]] = field(default_factory=list)
    ignored: List[str] = field(default_factory=list)
    found: Optional[Found] = None

    def table(self) -> str:
        """Counts per group of names (encoder, projection_head, prototypes, ...), one line each."""
        lines = [f"weights from {self.source}"]
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
              strict: str = "trunk", part: str = "all") -> LoadReport:
    """Copy weights into `layer` (any paddle.nn.Layer) and tell what became of every key.

    source: a weight file of any known library, what `read` returned, or a state of PASSL names in Paddle's layout.
    Names are matched exactly, under one prefix for the whole file: a full PASSL state goes into the pretraining model,
    into its network or into the bare trunk alike, wherever the trunk sits in `layer`.
    part: "trunk" leaves the file's heads unused.
    strict: "trunk" - every trunk weight of the layer must be loaded, heads may differ (they keep their own values, for
        instance a prototype layer of another size); "all" - every weight of the layer; "none" - whatever fits.
    CheckpointError, with the table, when the strictness is not met or when not one trunk weight matches a layer that
    has a trunk; and for weights that are NaN or infinite. Nothing is written to the layer in that case. dtypes are
    cast to the layer's.
    """
    if strict not in STRICT:
        raise UserError(f"strict must be one of {', '.join(STRICT)}, not '{strict}'")
    if part not in PARTS:
        raise UserError(f"part must be one of {', '.join(PARTS)}, not '{part}'")
    found = None
    if isinstance(source, (str, os.PathLike, Checkpoint)):
        label = source.path if isinstance(source, Checkpoint) else os.fspath(source)
        checkpoint = source if isinstance(source, Checkpoint) else read(label)
        state, found = to_passl_state(checkpoint, part=part, allow_unknown=True)
        dropped = [key for name, key in found.sources.items() if part == "trunk" and not TRUNK.match(name)]
    else:
        label = "a state dict"
        state = {name: array for name, array in source.items() if part == "all" or _is_trunk(name)}
        dropped = [name for name in source if name not in state]
    ours = layer.state_dict()
    pairs = _match(list(ours), list(state))
    report = LoadReport(label, found=found, ignored=list(found.ignored + found.unknown) if found else [])
    report.ignored += [name for name in state if name not in set(pairs.values())]
    report.ignored += dropped
    for name, tensor in ours.items():
        if name not in pairs:
            report.missing.append(name)
        elif tuple(tensor.shape) != state[pairs[name]].shape:
            report.wrong_shape.append((name, state[pairs[name]].shape, tuple(tensor.shape)))
        else:
            report.loaded.append(name)
    _enforce(report, ours, strict)
    _refuse_broken(report, {name: state[pairs[name]] for name in report.loaded})
    for name in report.loaded:
        _assign(ours[name], state[pairs[name]])
    return report


def _match(ours: List[str], theirs: List[str]) -> Dict[str, str]:
    """Layer name -> file name, under the pair of prefixes that matches most names."""
    best: Dict[str, str] = {}
    known = set(ours)
    places = {name[:-len(short)] for name in ours for short in ("conv1.weight", "linear.weight", "features.0.weight",
                                                                "projection_head.weight", "prototypes.weight")
              if name.endswith(short)}
    places |= {place[:-len(root)] for place in list(places) for root in _ROOTS[1:] if place.endswith(root)}
    for root in _ROOTS:
        for place in sorted(places | {""}, key=lambda place: (len(place), place)):
            pairs = {place + name[len(root):]: name for name in theirs if name.startswith(root)}
            pairs = {name: other for name, other in pairs.items() if name in known}
            if len(pairs) > len(best):
                best = pairs
    return best


def _is_trunk(name: str) -> bool:
    """Whether a layer's name is a trunk weight, at any depth of the layer."""
    stem, _, leaf = name.rpartition(".")
    parts = f"{stem}.{_TORCH_STATISTICS.get(leaf, leaf)}".split(".")
    return not any(head in parts for head in ("projection_head", "prototypes", "linear")) and any(
        TRUNK.match(".".join(parts[start:])) for start in range(len(parts)))


def _enforce(report: LoadReport, ours: Mapping[str, Any], strict: str) -> None:
    trunk = {name for name in ours if _is_trunk(name)}
    bad = set(report.missing) | {name for name, _, _ in report.wrong_shape}
    if not report.loaded or (trunk and not trunk & set(report.loaded)):
        raise CheckpointError(f"nothing of the {'trunk' if trunk else 'model'} matches; the model would keep its "
                              f"random weights. Is it the same architecture?\n{report.table()}\n"
                              f"  the model expects, for example, {', '.join(list(ours)[:3])}")
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
