"""Projection head and prototypes, initialised as PyTorch's Linear (the published runs' initial distribution)."""
from __future__ import annotations

import math
from typing import List, Union

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl.errors import UserError


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """Linear layer with weights and bias drawn from U(-1/sqrt(inputs), 1/sqrt(inputs)); Paddle weight is [in, out]."""
    bound = 1.0 / math.sqrt(inputs)

    def uniform():
        return paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound))

    return nn.Linear(inputs, outputs, weight_attr=uniform(), bias_attr=uniform() if bias else False)


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


def normalize_columns(weight: paddle.Tensor) -> None:
    """L2-normalise every prototype of a [D, K] weight in place (SwAV section 3.1: prototypes live on the sphere)."""
    with paddle.no_grad(), paddle.amp.auto_cast(enable=False):
        weight.set_value(F.normalize(weight, axis=0, epsilon=1e-12))


class Prototypes(nn.Linear):
    """Bias-free scores of K prototypes: [N, D] embeddings -> [N, K] cosines (when both are unit vectors)."""

    def __init__(self, dimension: int, count: int):
        bound = 1.0 / math.sqrt(dimension)
        super().__init__(dimension, count, bias_attr=False,
                         weight_attr=paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound)))

    def forward(self, embedding):
        # Not in half precision, where autocast would put any product: fp16 scores are too coarse once divided by
        # epsilon (spacing 0.016 in [16, 32)).
        with paddle.amp.auto_cast(enable=False):
            return F.linear(embedding.astype(self.weight.dtype), self.weight)

    def normalize(self) -> None:
        normalize_columns(self.weight)


class MultiPrototypes(nn.Layer):
    """Several independent prototype heads; children are named prototypes0, prototypes1, ... as in the releases."""

    def __init__(self, dimension: int, counts: List[int]):
        super().__init__()
        self.counts = list(counts)
        for head, count in enumerate(counts):
            self.add_sublayer(f"prototypes{head}", Prototypes(dimension, count))

    def heads(self) -> List[Prototypes]:
        return [getattr(self, f"prototypes{head}") for head in range(len(self.counts))]

    def forward(self, embedding):
        return [head(embedding) for head in self.heads()]

    def normalize(self) -> None:
        for head in self.heads():
            head.normalize()


def prototypes(dimension: int, counts: Union[int, List[int]]) -> nn.Layer:
    """Prototypes for a number, MultiPrototypes (one head each) for a list of numbers."""
    for count in [counts] if isinstance(counts, int) else counts:
        if count < 1:
            raise UserError(f"Model.backbone.nmb_prototypes is {counts}; expected a positive number of prototypes, or "
                            "a list of them for several heads (0 builds a network without prototypes)")
    return Prototypes(dimension, counts) if isinstance(counts, int) else MultiPrototypes(dimension, counts)
