"""Checkpoints of every layout, made from key tables and the formula of tests/golden, and a writer of legacy streams."""
import io
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from passl.weights.formats.writers import dump, torch_leaf
from tests.golden import formula

BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def peak_memory():
    """Most resident bytes of this process since `restarted_peak`."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def restarted_peak():
    """Start a new peak and return what is resident now; skips where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("needs Linux's /proc to measure memory")
    return peak_memory()


def resnet_shapes(blocks=(1, 1, 1, 1), channels=8, bottleneck=True, kernel=7):
    """Key -> shape of a torchvision ResNet trunk, in PyTorch's order."""
    shapes = OrderedDict()

    def norm(name, size):
        shapes.update({f"{name}.{leaf}": (() if leaf == "num_batches_tracked" else (size,)) for leaf in BN})

    shapes["conv1.weight"] = (channels, 3, kernel, kernel)
    norm("bn1", channels)
    inputs = channels
    for stage, count in enumerate(blocks, start=1):
        planes = channels * 2 ** (stage - 1)
        outputs = planes * 4 if bottleneck else planes
        for index in range(count):
            name = f"layer{stage}.{index}"
            convolutions = ([(planes, inputs, 1), (planes, planes, 3), (outputs, planes, 1)] if bottleneck else
                            [(planes, inputs, 3), (planes, planes, 3)])
            for number, (out, into, size) in enumerate(convolutions, start=1):
                shapes[f"{name}.conv{number}.weight"] = (out, into, size, size)
                norm(f"{name}.bn{number}", out)
            if index == 0 and (stage > 1 or inputs != outputs):
                shapes[f"{name}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                norm(f"{name}.downsample.1", outputs)
            inputs = outputs
    return shapes


def head_shapes(features, hidden=16, embedding=6, batch_norm=True):
    if not hidden:
        return OrderedDict({"projection_head.weight": (embedding, features), "projection_head.bias": (embedding,)})
    shapes = OrderedDict({"projection_head.0.weight": (hidden, features), "projection_head.0.bias": (hidden,)})
    if batch_norm:
        shapes.update({f"projection_head.1.{leaf}": (() if leaf == BN[-1] else (hidden,)) for leaf in BN})
    last = 3 if batch_norm else 2
    shapes.update({f"projection_head.{last}.weight": (embedding, hidden), f"projection_head.{last}.bias": (embedding,)})
    return shapes


def pretraining_shapes(prototypes=(5,), hidden=16, embedding=6, batch_norm=True, **trunk):
    shapes = resnet_shapes(**trunk)
    features = next(reversed([s[0] for n, s in shapes.items() if n.startswith("layer4") and n.endswith("bn1.bias")]))
    features *= 4 if trunk.get("bottleneck", True) else 1
    shapes.update(head_shapes(features, hidden, embedding, batch_norm))
    if len(prototypes) == 1:
        shapes["prototypes.weight"] = (prototypes[0], embedding)
    else:
        shapes.update({f"prototypes.prototypes{h}.weight": (k, embedding) for h, k in enumerate(prototypes)})
    return shapes


def alexnet_shapes(heads=2, clusters=7):
    channels, shapes = [3, 96, 256, 384, 384, 256], OrderedDict()
    for index, (conv, kernel) in enumerate(zip((0, 4, 8, 11, 14), (11, 5, 3, 3, 3))):
        shapes[f"features.{conv}.weight"] = (channels[index + 1], channels[index], kernel, kernel)
        shapes[f"features.{conv}.bias"] = (channels[index + 1],)
        shapes.update({f"features.{conv + 1}.{leaf}": () if leaf == BN[-1] else (channels[index + 1],) for leaf in BN})
    shapes.update({"classifier.1.weight": (40, 9216), "classifier.1.bias": (40,),  # 4096 wide in the release
                   "classifier.4.weight": (32, 40), "classifier.4.bias": (32,)})
    names = [f"top_layer{head}" for head in range(heads)] if heads > 1 else ["top_layer"]
    for name in names:
        shapes.update({f"{name}.weight": (clusters, 32), f"{name}.bias": (clusters,)})
    return shapes


def preactivation_shapes(channels=8, blocks=(1, 2, 1, 1), heads=2, clusters=7):
    shapes, inputs = OrderedDict({"features.0.weight": (channels, 3, 7, 7)}), channels
    for stage, count in enumerate(blocks):
        planes = channels * 2 ** stage
        for index in range(count):
            name = f"features.{stage + 2}.{index}"
            for number, (size, conv) in enumerate(((inputs, (planes, inputs, 1, 1)), (planes, (planes, planes, 3, 3)),
                                                   (planes, (planes * 4, planes, 1, 1))), start=1):
                shapes.update({f"{name}.bn{number}.{leaf}": (() if leaf == BN[-1] else (size,)) for leaf in BN})
                shapes[f"{name}.conv{number}.weight"] = conv
            if index == 0:
                shapes[f"{name}.shortcut.0.weight"] = (planes * 4, inputs, 1, 1)
            inputs = planes * 4
    names = [f"top_layer{head}" for head in range(heads)] if heads > 1 else ["top_layer.0"]
    for name in names:
        shapes.update({f"{name}.weight": (clusters, inputs), f"{name}.bias": (clusters,)})
    return shapes


def filled(shapes, dtype=np.float32):
    """Arrays of the formula; counters count, so that a lost one shows."""
    state = OrderedDict()
    for position, (name, shape) in enumerate(shapes.items()):
        counter = name.endswith("num_batches_tracked")
        state[name] = np.array(1000 + position, np.int64) if counter else formula.weight(name, shape).astype(dtype)
    return state


def renamed(state, rule, prefix=""):
    return OrderedDict((prefix + rule(name), array) for name, array in state.items())


def torch_pickle(tree):
    """(pickle of the tree as torch.save writes it, its storages in order of their keys)."""
    storages, out = [], io.BytesIO()
    dump(tree, out, 2, torch_leaf(storages))
    return out.getvalue(), storages


def legacy_stream(tree, protocol=2):
    """What torch.save wrote before PyTorch 1.6: all released SwAV files are of this kind, with pickle protocol 2."""
    body, storages = torch_pickle(tree)
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    pieces = [pickle.dumps(value, protocol) for value in (0x1950A86A20F9469CFC6C, 1001, facts)] + [body]
    pieces.append(pickle.dumps([str(key) for key in range(len(storages))], protocol))
    for array in storages:
        pieces += [struct.pack("<q", array.size), np.ascontiguousarray(array).tobytes()]
    return b"".join(pieces)
