"""Running statistics of batch norm, measured anew at one resolution.

Multi-crop pretraining updates them once per resolution and step, the small crops last, so they lean towards small
crops. The published figures use them as they are; measuring them at the resolution of use is an option.
"""
from __future__ import annotations

from typing import Callable

import paddle
from paddle import nn

from passl import distributed
from passl.errors import NotFinite, UserError


class BatchNormAverage:
    """Sets every running mean and variance that `features` reaches to the average over batches, when its block ends.

        with BatchNormAverage(network, network.extract_feat) as average:
            for images in batches:
                average.observe(images)
        average.images  # how many they were, over all ranks

    All batches of all ranks count alike, so give batches of one size. Weights stay as they are. `observe` leaves batch
    norm in training mode. ValueError without batch norm or without a batch, FloatingPointError when statistics come out
    as NaN or infinity.
    """

    def __init__(self, network: nn.Layer, features: Callable[[paddle.Tensor], paddle.Tensor]):
        self.features, self.batches, self.images = features, 0, 0
        self._layers = [layer for layer in network.sublayers() if isinstance(layer, nn.layer.norm._BatchNormBase)]
        if not self._layers:
            raise UserError(f"{type(network).__name__} has no batch norm to recalibrate")
        self._momenta = [layer._momentum for layer in self._layers]

    def __enter__(self) -> BatchNormAverage:
        return self

    @paddle.no_grad()
    def observe(self, images: paddle.Tensor) -> None:
        """Take one batch of this rank into the average: normalised images float32 [B, 3, H, W]."""
        for layer in self._layers:
            layer.train()
            layer._momentum = self.batches / (self.batches + 1)  # a plain average instead of a decaying one
        self.features(images)
        self.batches, self.images = self.batches + 1, self.images + images.shape[0]

    @paddle.no_grad()
    def __exit__(self, kind, error, traceback) -> None:
        for layer, momentum in zip(self._layers, self._momenta):
            layer._momentum = momentum
        if kind is not None:
            return
        batches, images = distributed.all_reduce(paddle.to_tensor([float(self.batches), float(self.images)])).tolist()
        if not batches:
            raise UserError("there are no images to measure batch-norm statistics on")
        # Layers that are not reached (a projection head's) hold the same on every rank.
        averages = [(buffer, distributed.all_reduce(buffer * (self.batches / batches)))
                    for layer in self._layers for buffer in (layer._mean, layer._variance)]
        if not all(bool(paddle.isfinite(average).all()) for _, average in averages):
            raise NotFinite("the measured batch-norm statistics hold NaN or infinity: an image does, or the weights "
                            "are damaged")
        for buffer, average in averages:
            buffer.set_value(average)
        self.images = int(images)
