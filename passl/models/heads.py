"""What stands on a trunk: projection head, prototypes, SeLa's cluster heads, the linear probe.

All but the probe are initialised as PyTorch's Linear, from U(-1/sqrt(inputs), 1/sqrt(inputs)): the initial distribution
of the published runs.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, List, Mapping, Union

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl.errors import UserError
from passl.registry import BACKBONES


@BACKBONES.shared
@dataclass(frozen=True)
class HeadOptions:
    """Keys of Model.backbone that every trunk takes: its projection head and prototypes.

    normalize: bring embeddings to unit length; every clustering method wants it.
    hidden_mlp: hidden units of the head (2048 published; 8192 and 10240 for wide networks); 0 is a single layer.
    output_dim: dimensions of an embedding (128 published); 0 builds the trunk alone.
    nmb_prototypes: prototypes, or a list of them for several heads; 0 builds none.
    eval_mode: return what the trunk gives instead of embeddings, as PASSL's probe files ask.
    head_batch_norm: batch norm in the head; the released w5 was trained without.
    prototype_bias: scores have a bias, as in lightly's networks; no published run of SwAV has one.
    """

    normalize: bool = False
    hidden_mlp: int = 0
    output_dim: int = 0
    nmb_prototypes: Union[int, List[int]] = 0
    eval_mode: bool = False
    head_batch_norm: bool = True
    prototype_bias: bool = False


def _uniform(inputs: int) -> paddle.ParamAttr:
    bound = 1.0 / math.sqrt(inputs)
    return paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound))


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Linear layer, initialised as PyTorch's; Paddle's weight is [in, out]."""
    return nn.Linear(inputs, outputs, weight_attr=_uniform(inputs), bias_attr=_uniform(inputs))


def projection_head(inputs: int, hidden: int, outputs: int, batch_norm: bool = True) -> nn.Layer:
    """[N, inputs] -> [N, outputs]: one Linear when hidden is 0, else Linear - BatchNorm1D - ReLU - Linear.

    batch_norm=False gives Linear - ReLU - Linear with child names 0, 1, 2 (the released w5 model has this head).
    """
    if hidden == 0:
        return linear(inputs, outputs)
    layers = [linear(inputs, hidden)]
    if batch_norm:
        layers.append(nn.BatchNorm1D(hidden))
    return nn.Sequential(*layers, nn.ReLU(), linear(hidden, outputs))


class ClusterHead(nn.Linear):
    """[N, inputs] -> scores [N, K] of K clusters: one of SeLa's classifiers on features (Asano et al. 2020)."""

    def __init__(self, inputs: int, count: int, bias: bool = True):
        super().__init__(inputs, count, weight_attr=_uniform(inputs), bias_attr=_uniform(inputs) if bias else False)

    def forward(self, inputs):
        # Not in half precision, where autocast would put any product: fp16 scores are too coarse once divided by
        # epsilon (spacing 0.016 in [16, 32)).
        with paddle.amp.auto_cast(enable=False):
            return F.linear(inputs.astype(self.weight.dtype), self.weight, self.bias)


class Prototypes(ClusterHead):
    """Scores of K prototypes: [N, D] embeddings -> [N, K] cosines (when both are unit vectors), plus a bias if any."""

    def __init__(self, dimension: int, count: int, bias: bool = False):
        super().__init__(dimension, count, bias=bias)

    def heads(self) -> List["Prototypes"]:
        return [self]

    def normalize(self) -> None:
        """Bring every prototype to unit length (SwAV section 3.1: they live on the sphere)."""
        with paddle.no_grad(), paddle.amp.auto_cast(enable=False):
            self.weight.set_value(F.normalize(self.weight, axis=0, epsilon=1e-12))


class MultiPrototypes(nn.Layer):
    """Several independent prototype heads; children are named prototypes0, prototypes1, ... as in the releases."""

    def __init__(self, dimension: int, counts: List[int], bias: bool = False):
        super().__init__()
        self.counts = list(counts)
        for head, count in enumerate(counts):
            self.add_sublayer(f"prototypes{head}", Prototypes(dimension, count, bias))

    def heads(self) -> List[Prototypes]:
        return [getattr(self, f"prototypes{head}") for head in range(len(self.counts))]

    def forward(self, embedding):
        return [head(embedding) for head in self.heads()]

    def normalize(self) -> None:
        for head in self.heads():
            head.normalize()


def prototypes(dimension: int, counts: Union[int, List[int]], bias: bool = False) -> nn.Layer:
    """Prototypes for a number, MultiPrototypes (one head each) for a list of numbers."""
    for count in [counts] if isinstance(counts, int) else counts:
        if count < 1:
            raise UserError(f"Model.backbone.nmb_prototypes is {counts}; expected a positive number of prototypes, or "
                            "a list of them for several heads (0 builds a network without prototypes)")
    return Prototypes(dimension, counts, bias) if isinstance(counts, int) else MultiPrototypes(dimension, counts, bias)


HEAD_KEYS = ("hidden_mlp", "output_dim", "normalize", "eval_mode")  # of Model.backbone; nothing here would use them


def cluster_counts(backbone: Mapping[str, Any]) -> List[int]:
    """Clusters of every classifier, from Model.backbone; ValueError for what cannot be built or has no effect."""
    given = backbone.get("nmb_prototypes")
    clusters = [given] if isinstance(given, int) else list(given or [])
    if not clusters or min(clusters) < 2:
        raise UserError(f"Model.backbone.nmb_prototypes is {given}: SeLa needs at least 2 clusters for each "
                        "classifier, one number for each (ten of 3000 on ImageNet)")
    unused = [f"Model.backbone.{key}" for key in HEAD_KEYS if backbone.get(key)]
    if unused:
        raise UserError(f"SeLa's classifiers stand on the trunk's features, so {' and '.join(unused)} would have no "
                        "effect: leave out what is of a projection head")
    return clusters


class ProbeHead(nn.Layer):
    """Trunk features -> logits: [batch norm], Linear with weights from N(0, 0.01) and zero bias.

    With global pooling the input is [B, F]. Without, it is the map [B, F, h, w]: an average pool of side h - 1 and
    stride 1 (6 on the 7x7 map of a 224-pixel image) leaves 2x2 positions, i.e. 4 F features (8192 for ResNet-50).
    """

    def __init__(self, num_features: int, classes: int, global_pooling: bool = True, use_bn: bool = False):
        super().__init__()
        self.global_pooling = global_pooling
        self.bn = nn.BatchNorm2D(num_features) if use_bn else None
        weight = paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, 0.01))
        bias = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
        self.linear = nn.Linear(num_features * (1 if global_pooling else 4), classes, weight_attr=weight,
                                bias_attr=bias)

    def forward(self, features):
        if self.global_pooling:
            pooled = features.unsqueeze([2, 3])
        elif features.ndim == 2:
            raise UserError("Model.global_pooling False needs a feature map, and the trunk gives a vector: leave the "
                            "key out")
        else:
            height, width = features.shape[2:]
            if min(height, width) < 2:
                raise UserError(f"Model.global_pooling False needs a feature map of at least 2x2, got {height}x{width}"
                                ": use larger images (64 pixels with the ImageNet stem) or global pooling")
            pooled = nn.functional.avg_pool2d(features, [height - 1, width - 1], stride=1)
        if self.bn is not None:
            pooled = self.bn(pooled)
        return self.linear(pooled.flatten(1))
