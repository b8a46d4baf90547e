"""Whether what stands in a file's trunk is the network that it is taken for.

A weight inside the trunk that the named network does not have, or has in another shape, belongs to another network:
without it the features would be those of neither. Only what lies beside the trunk can be left out.
"""
from __future__ import annotations

import re
from typing import Dict, Iterable, List, Mapping, Sequence, Tuple

from passl.errors import CheckpointError

Shape = Tuple[int, ...]

# first segment of a name, counted from where the trunk begins: a layer of it, or a head that stands on it
_LAYER = re.compile(r"(conv|bn|norm|layer|stage|block|stem|res|pool|maxpool|attn|attnpool|attention|se|cbam|downsample)"
                    r"s?[\d_]*")
_HEAD = re.compile(r"(fc|head|classifier|linear|logit|proj|pred|mlp|proto|neck|top_layer)")
_PROFILER = ("total_ops", "total_params")  # buffers that the profiler thop leaves in every layer it has counted


def resnet_shapes(block: str, blocks: Sequence[int], channels: int, kernel: int) -> Dict[str, Shape]:
    """Canonical name -> shape of every weight of a ResNet trunk. block: "basic" or "bottleneck"."""
    shapes: Dict[str, Shape] = {}

    def add(convolution: str, norm: str, outputs: int, inputs: int, size: int) -> None:
        shapes[f"{convolution}.weight"] = (outputs, inputs, size, size)
        shapes.update({f"{norm}.{leaf}": (outputs,) for leaf in ("weight", "bias", "running_mean", "running_var")})

    add("conv1", "bn1", channels, 3, kernel)
    inputs = channels
    for stage, count in enumerate(blocks, start=1):
        planes = channels * 2 ** (stage - 1)
        outputs = planes * (4 if block == "bottleneck" else 1)
        for index in range(count):
            name = f"layer{stage}.{index}"
            layers = ([(planes, inputs, 1), (planes, planes, 3), (outputs, planes, 1)] if block == "bottleneck" else
                      [(planes, inputs, 3), (planes, planes, 3)])
            for number, layer in enumerate(layers, start=1):
                add(f"{name}.conv{number}", f"{name}.bn{number}", *layer)
            if index == 0 and (stage > 1 or inputs != outputs):
                add(f"{name}.downsample.0", f"{name}.downsample.1", outputs, inputs, 1)
            inputs = outputs
    return shapes


def inside_trunk(names: Iterable[str], trunk: Iterable[str]) -> List[str]:
    """Those of `names` that lie inside the trunk whose weights a file calls `trunk`: between them or below its root."""
    split = [name.split(".") for name in trunk]
    if not split:
        return []
    depth = 0
    while all(len(parts) > depth + 1 and parts[depth] == split[0][depth] for parts in split):
        depth += 1
    root, members = split[0][:depth], {parts[depth] for parts in split}
    inside = []
    for name in names:
        parts = name.split(".")
        if len(parts) <= depth or parts[:depth] != root or parts[-1] in _PROFILER:
            continue
        if parts[depth] in members or _LAYER.fullmatch(parts[depth]) or (root and not _HEAD.match(parts[depth])):
            inside.append(name)
    return inside


def misfits_of_resnet(shapes: Mapping[str, Shape], expected: Mapping[str, Shape], what: str) -> List[str]:
    """What of a trunk's weights `what` does not have, or has in another shape: one line each."""
    lines = [f"{name} {list(shape)}: a {what} has no such weight" if name not in expected else
             f"{name} {list(shape)}: a {what} has {list(expected[name])}"
             for name, shape in shapes.items() if shape != expected.get(name)]
    return lines


def refuse_misfits(path: str, what: str, misfits: Sequence[str]) -> None:
    """CheckpointError that names the weights of another network, if there are any."""
    if misfits:
        more = f"\n  and {len(misfits) - 6} more" if len(misfits) > 6 else ""
        raise CheckpointError(f"{path}: its trunk is not {what or 'the network it looks like'}:\n  "
                              + "\n  ".join(misfits[:6]) + f"{more}\nIts features would be wrong, so nothing is loaded "
                              "or converted. A network of other layers needs a trunk of its own "
                              "(docs/add_a_backbone.md)")
