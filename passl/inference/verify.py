"""A plain numpy forward pass of the source weights, to hold a converted model against.

Slow and simple on purpose: convolutions are matrix products over sliding windows in float64, so that the comparison has
one side with neither framework nor layout tricks in it.
"""
from __future__ import annotations

import re
from typing import Dict, List, Mapping, Optional

import numpy as np

from passl.errors import CheckpointError
from passl.models.stems import STEMS
from passl.weights.formats.reader import widen
from passl.weights.layouts.found import Found

_EPSILON = 1e-5  # BatchNorm, both frameworks
_CLASSIFIER = re.compile(r"(fc|linear|top_layer\d+|projection_head)\.weight")


def fixed_input(size: int = 64, batch: int = 2) -> np.ndarray:
    """The images every verification uses: float32 [batch, 3, size, size] of unit normals with a fixed seed."""
    return np.random.RandomState(20200617).standard_normal((batch, 3, size, size)).astype(np.float32)


class _Widened(Dict[str, np.ndarray]):
    """Weights as float64, one at a time: all at once they would be three copies of the model."""

    def __getitem__(self, name: str) -> np.ndarray:
        return widen(super().__getitem__(name)).astype(np.float64)


def check_verifiable(canonical: Mapping[str, np.ndarray], found: Found) -> None:
    """CheckpointError for weights that `numpy_forward` has no forward pass for, before anything is converted."""
    if found.block not in ("basic", "bottleneck"):
        what = found.architecture or "heads without a trunk"
        raise CheckpointError(f"verification knows torchvision-shaped ResNets, not {what}; convert without it")
    odd = [f"{stem}.weight" for stem in classifiers(canonical, found)
           if canonical[f"{stem}.weight"].shape[1] != found.features]
    odd += [name for name in canonical if name.startswith("bn.")]
    if odd:
        raise CheckpointError(f"verification knows classifiers on pooled features, not {', '.join(odd[:3])}; convert "
                              "without it")


def classifiers(canonical: Mapping[str, np.ndarray], found: Found) -> List[str]:
    """Names of the Linear layers whose outputs are classes or clusters, in the order of their logits."""
    matches = sorted(filter(None, map(_CLASSIFIER.fullmatch, canonical)), key=lambda match: (len(match[0]), match[0]))
    return [match[1] for match in matches if match[1] != "projection_head" or not found.embedding]


def numpy_forward(canonical: Mapping[str, np.ndarray], found: Found, images: np.ndarray) -> Dict[str, np.ndarray]:
    """Outputs of a ResNet with canonical weights in evaluation mode, computed in float64.

    images: [B, 3, H, W]. Returns "features" [B, F] (pooled trunk) and, where the weights have them, "embedding" [B, D]
    (L2-normalised when prototypes follow), "scores" [B, K] (all prototype heads side by side) and "logits" (of all
    classifiers side by side). CheckpointError for what `check_verifiable` refuses.
    """
    check_verifiable(canonical, found)
    weights = _Widened(canonical)
    _, stride, padding, pool = STEMS[found.stem]
    x = _relu(_norm(weights, "bn1", _convolution(images.astype(np.float64), weights["conv1.weight"], stride, padding)))
    x = _max_pool(x) if pool else x
    for stage, blocks in enumerate(found.blocks, start=1):
        for index in range(blocks):
            x = _block(weights, f"layer{stage}.{index}", x, 2 if index == 0 and stage > 1 else 1, found.block)
    outputs = {"features": x.mean(axis=(2, 3))}
    if found.embedding:
        outputs["embedding"] = _head(weights, found, outputs["features"])
    if found.prototypes:
        norm = np.linalg.norm(outputs["embedding"], axis=1, keepdims=True)
        outputs["embedding"] = outputs["embedding"] / np.maximum(norm, 1e-12)
        names = (["prototypes.weight"] if "prototypes.weight" in weights else
                 [f"prototypes.prototypes{head}.weight" for head in range(len(found.prototypes))])
        biases = [name.replace("weight", "bias") for name in names]
        outputs["scores"] = np.concatenate([outputs["embedding"] @ weights[name].T
                                            + (weights[bias] if bias in weights else 0)
                                            for name, bias in zip(names, biases)], axis=1)
    stems = classifiers(canonical, found)
    if stems:
        outputs["logits"] = np.concatenate([outputs["features"] @ weights[f"{stem}.weight"].T
                                            + (weights[f"{stem}.bias"] if f"{stem}.bias" in weights else 0)
                                            for stem in stems], axis=1)
    return outputs


def paddle_network(state: Mapping[str, np.ndarray], found: Found):
    """Our Paddle network of what was found, in evaluation mode, every weight filled from a state of PASSL names.

    `network.classifiers` are Linear layers on its features, one for each of `classifiers`.
    """
    import paddle

    from passl.models.heads import HeadOptions
    from passl.models.networks import MultiCropNetwork
    from passl.models.resnet import BasicBlock, Bottleneck, ResNet
    from passl.weights.load import load_into

    base = int(round(found.width * 64)) if found.width else state["res_model.encoder.conv1.weight"].shape[0]
    trunk = ResNet(Bottleneck if found.block == "bottleneck" else BasicBlock, found.blocks, 1,
                   found.stem, base_channels=base)
    prototypes = found.prototypes[0] if len(found.prototypes) == 1 else found.prototypes
    options = HeadOptions(bool(found.prototypes), found.hidden, found.embedding, prototypes or 0,
                          head_batch_norm=found.head_batch_norm, prototype_bias=found.prototype_bias)
    network = MultiCropNetwork(trunk, options)
    load_into(network, state, strict="all")
    canonical = {name.replace("res_model.", "").replace("linear.linear.", "linear."): array
                 for name, array in state.items()}
    network.classifiers = paddle.nn.LayerList()
    for stem in classifiers(canonical, found):
        bias = canonical.get(f"{stem}.bias")
        layer = paddle.nn.Linear(*canonical[f"{stem}.weight"].shape, bias_attr=None if bias is not None else False)
        load_into(layer, {leaf: canonical[f"{stem}.{leaf}"] for leaf in layer.state_dict()}, strict="all")
        network.classifiers.append(layer)
    network.eval()
    return network


def paddle_forward(network, images: np.ndarray) -> Dict[str, np.ndarray]:
    """The outputs of `numpy_forward` from a `paddle_network`."""
    import paddle

    with paddle.no_grad():
        outputs = network.outputs(paddle.to_tensor(images))
        if len(network.classifiers):
            outputs["logits"] = paddle.concat([layer(outputs["features"]) for layer in network.classifiers], axis=1)
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def largest_differences(ours: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> Dict[str, float]:
    """max |a - b| over max |b| for every output that both have: a trunk file has no scores, and a torchvision file only
    the first of several cluster heads."""
    differences = {}
    for name in reference:
        if name in ours:
            expected = reference[name][:, :ours[name].shape[1]]
            differences[name] = float(np.abs(ours[name] - expected).max() / max(np.abs(expected).max(), 1e-30))
    return differences


def _convolution(x: np.ndarray, weight: np.ndarray, stride: int, padding: Optional[int] = None) -> np.ndarray:
    outputs, inputs, kernel, _ = weight.shape
    padding = kernel // 2 if padding is None else padding
    if padding:
        x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(2, 3))[:, :, ::stride, ::stride]
    batch, _, height, width = windows.shape[:4]
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(batch * height * width, inputs * kernel * kernel)
    return (columns @ weight.reshape(outputs, -1).T).reshape(batch, height, width, outputs).transpose(0, 3, 1, 2)


def _norm(weights: Mapping[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    scale = weights[f"{name}.weight"] / np.sqrt(weights[f"{name}.running_var"] + _EPSILON)
    shift = weights[f"{name}.bias"] - weights[f"{name}.running_mean"] * scale
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return x * scale.reshape(shape) + shift.reshape(shape)


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def _max_pool(x: np.ndarray) -> np.ndarray:
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max(axis=(4, 5))


def _block(weights: Mapping[str, np.ndarray], name: str, x: np.ndarray, stride: int, kind: str) -> np.ndarray:
    strides = (1, stride, 1) if kind == "bottleneck" else (stride, 1)
    y = x
    for index, step in enumerate(strides, start=1):
        y = _norm(weights, f"{name}.bn{index}", _convolution(y, weights[f"{name}.conv{index}.weight"], step))
        y = y if index == len(strides) else _relu(y)
    if f"{name}.downsample.0.weight" in weights:
        x = _norm(weights, f"{name}.downsample.1", _convolution(x, weights[f"{name}.downsample.0.weight"], stride))
    return _relu(y + x)


def _head(weights: Mapping[str, np.ndarray], found: Found, x: np.ndarray) -> np.ndarray:
    if not found.hidden:
        return x @ weights["projection_head.weight"].T + weights["projection_head.bias"]
    x = x @ weights["projection_head.0.weight"].T + weights["projection_head.0.bias"]
    if found.head_batch_norm:
        x = _norm(weights, "projection_head.1", x)
    last = "projection_head.3" if found.head_batch_norm else "projection_head.2"
    return _relu(x) @ weights[f"{last}.weight"].T + weights[f"{last}.bias"]
