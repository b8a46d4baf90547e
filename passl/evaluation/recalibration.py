"""Running statistics of batch norm, measured anew at one resolution.

Multi-crop pretraining updates them once per resolution and step, the small crops last, so they lean towards small
crops. The published figures use them as they are; measuring them at the resolution of use is an option.
"""
from __future__ import annotations

from typing import Iterable

import paddle
from paddle import nn

from passl import distributed
from passl.errors import UserError
from passl.evaluation.extract import evaluation_mode, feature_function


def recalibrate_batch_norm(model: nn.Layer, batches: Iterable[paddle.Tensor]) -> int:
    """Set every running mean and variance of the trunk to the average over `batches`; returns the images used.

    batches: normalised images float32 [B, 3, H, W], this rank's share; all batches of all ranks count alike, so give
    batches of one size. Weights stay as they are, and so does the mode of every layer. ValueError without batches or
    without batch norm.
    """
    function = feature_function(model)
    layers = [layer for layer in model.sublayers() if isinstance(layer, nn.layer.norm._BatchNormBase)]
    if not layers:
        raise UserError(f"{type(model).__name__} has no batch norm to recalibrate")
    momenta = [layer._momentum for layer in layers]
    count = images = 0
    with evaluation_mode(model):
        try:
            for batch in batches:
                for layer in layers:
                    layer.train()
                    layer._momentum = count / (count + 1)  # a plain average over batches instead of a decaying one
                function(batch)
                count, images = count + 1, images + batch.shape[0]
        finally:
            for layer, momentum in zip(layers, momenta):
                layer._momentum = momentum
        total = distributed.all_reduce(paddle.to_tensor([float(count), float(images)])).tolist()
        if not total[0]:
            raise UserError("there are no images to measure batch-norm statistics on")
        for layer in layers:  # those that the trunk does not reach (a projection head's) hold the same on every rank
            for buffer in (layer._mean, layer._variance):
                buffer.set_value(distributed.all_reduce(buffer * (count / total[0])))
    return int(total[1])
