"""Recomputing activations in the backward pass: memory for compute (Chen et al. 2016, arXiv 1604.06174)."""
from __future__ import annotations

from typing import List, Sequence

import paddle
from paddle import nn

from passl.errors import UserError

STAGES = ("layer1", "layer2", "layer3", "layer4")


def recompute_stages(network: nn.Layer, names: Sequence[str] = (), interval: int = 1) -> List[str]:
    """Make every `interval`-th of the named stages (empty: of all four) recompute its activations, in every trunk.

    Only the input of a stage is kept for the backward pass, which runs the stage once more: about a third more
    compute for the memory of its activations. Gradients and running statistics stay those of the plain network.
    Returns the stages; ValueError for a name that is none.
    """
    from passl.models.resnet import ResNet

    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise UserError(f"DistributedStrategy.recompute.names: '{unknown[0]}' is no stage; choose from "
                        f"{', '.join(STAGES)}")
    chosen = list(names or STAGES)[::interval]
    for layer in network.sublayers(include_self=True):
        if isinstance(layer, ResNet):
            layer.recomputed_stages = tuple(chosen)
    return chosen


def recompute(stage: nn.Layer, x: paddle.Tensor) -> paddle.Tensor:
    """`stage(x)` without keeping its activations.

    The second pass leaves running statistics alone, which would otherwise see every batch twice. Paddle's other
    implementation (use_reentrant=True) runs a backward pass of its own for every call, so that gradient reduction over
    ranks would count a trunk that serves two resolutions twice.
    """
    from paddle.distributed.fleet.utils import recompute as paddle_recompute

    passes = []

    def forward(inputs):
        passes.append(None)
        if len(passes) == 1:
            return stage(inputs)
        norms = [layer for layer in stage.sublayers() if isinstance(layer, nn.layer.norm._BatchNormBase)]
        kept = [(norm._mean.clone(), norm._variance.clone()) for norm in norms]
        output = stage(inputs)
        for norm, (mean, variance) in zip(norms, kept):
            norm._mean.set_value(mean)
            norm._variance.set_value(variance)
        return output

    # There is no dropout in a trunk, so the generators need not be kept.
    return paddle_recompute(forward, x, use_reentrant=False, preserve_rng_state=False)
