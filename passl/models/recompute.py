"""Recomputing activations in the backward pass: memory for compute (Chen et al. 2016, arXiv 1604.06174)."""
from __future__ import annotations

import functools
from typing import List, Sequence

import paddle
from paddle import nn

from passl.errors import UserError


def recompute_stages(trunk: nn.Layer, names: Sequence[str] = (), interval: int = 1) -> List[str]:
    """Make every `interval`-th of the named stages (empty: of all) of a trunk recompute its activations in training.

    Only the input of a stage is kept for the backward pass, which runs the stage once more: about a third more
    compute for the memory of its activations. Gradients and running statistics stay those of the plain network.
    Returns the stages; UserError for a name that is none.
    """
    unknown = [name for name in names if name not in trunk.stages]
    if unknown:
        raise UserError(f"DistributedStrategy.recompute.names: '{unknown[0]}' is no stage; choose from "
                        f"{', '.join(trunk.stages)}")
    chosen = list(names or trunk.stages)[::interval]
    for name in chosen:
        stage = getattr(trunk, name)
        stage.forward = functools.partial(_recomputed, stage)  # a partial, so that copies of the trunk run their own
    return chosen


def _recomputed(stage: nn.Layer, x: paddle.Tensor) -> paddle.Tensor:
    """What `stage` makes of x; in training without keeping its activations.

    The second pass leaves running statistics alone, which would otherwise see every batch twice. Paddle's other
    implementation (use_reentrant=True) runs a backward pass of its own for every call, so that gradient reduction over
    ranks would count a trunk that serves two resolutions twice.
    """
    plain = functools.partial(type(stage).forward, stage)
    if not stage.training or x.stop_gradient:
        return plain(x)
    from paddle.distributed.fleet.utils import recompute as paddle_recompute

    passes: List[None] = []

    def forward(inputs):
        passes.append(None)
        if len(passes) == 1:
            return plain(inputs)
        norms = [layer for layer in stage.sublayers() if isinstance(layer, nn.layer.norm._BatchNormBase)]
        kept = [(norm._mean.clone(), norm._variance.clone()) for norm in norms]
        output = plain(inputs)
        for norm, (mean, variance) in zip(norms, kept):
            norm._mean.set_value(mean)
            norm._variance.set_value(variance)
        return output

    # There is no dropout in a trunk, so the generators need not be kept.
    return paddle_recompute(forward, x, use_reentrant=False, preserve_rng_state=False)
