"""The convolution of the trunks, with a fast path for training on CPUs."""
from __future__ import annotations

import math
from typing import Tuple

import paddle
import paddle.nn.functional as F
from paddle import nn


class Convolution(nn.Conv2D):
    """Bias-free square convolution; Kaiming-normal (fan-out, ReLU) weights, std = sqrt(2 / (kernel^2 * outputs)).

    On a CPU, small maps of a whole batch are multiplied at once. Paddle's kernel goes image by image and reads all
    weights for each; where maps have few positions and many channels (the last stages, small crops) that takes two
    to five times as long (docs/benchmarks.md). Values differ in the last bits, as sums run in another order. Only in
    training: an evaluated image gives the same bits in every batch.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0):
        initial = nn.initializer.Normal(0.0, math.sqrt(2.0 / (kernel * kernel * outputs)))
        super().__init__(inputs, outputs, kernel, stride=stride, padding=padding, bias_attr=False,
                         weight_attr=paddle.ParamAttr(initializer=initial))
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.most_positions = (inputs + outputs) // _CHANNELS_PER_POSITION  # of an output map that is worth it

    @paddle.jit.not_to_static  # exported networks hold the plain convolution
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.training and self.most_positions and paddle.in_dynamic_mode() and x.place.is_cpu_place():
            height, width = [(side + 2 * self.padding - self.kernel) // self.stride + 1 for side in x.shape[2:]]
            if min(height, width) > 0 and height * width <= self.most_positions:
                return self._one_product(x, height, width)
        return super().forward(x)

    def _one_product(self, x: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
        """[B, C, H, W] -> [B, O, height, width]: a row for every position, times the weights."""
        batch, positions = x.shape[0], height * width
        (top, bottom), (left, right) = self._taps(x.shape[2], height), self._taps(x.shape[3], width)
        weight = self.weight[:, :, top:bottom, left:right].flatten(1)
        if self.kernel > 1 or self.padding > 0:
            above, before = self.padding - top, self.padding - left
            below = max(0, (height - 1) * self.stride + bottom - top - above - x.shape[2])
            behind = max(0, (width - 1) * self.stride + right - left - before - x.shape[3])
            rows = F.unfold(x, [bottom - top, right - left], self.stride, [above, before, below, behind])
        else:
            rows = x[:, :, ::self.stride, ::self.stride].flatten(2)
        if positions > 1:
            rows = rows.transpose([0, 2, 1])
        product = paddle.matmul(rows.reshape([batch * positions, -1]), weight, transpose_y=True)
        if positions > 1:
            product = product.reshape([batch, positions, -1]).transpose([0, 2, 1])
        return product.reshape([batch, -1, height, width])

    def _taps(self, side: int, positions: int) -> Tuple[int, int]:
        """First and one past the last row (or column) of the kernel that do not lie on padding at every position."""
        return max(0, self.padding - (positions - 1) * self.stride), min(self.kernel, side + self.padding)


_CHANNELS_PER_POSITION = 48  # both ways are about equally fast there: kernels of 1 and 3, 64 to 2048 channels
