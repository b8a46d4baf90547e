"""Averaging gradients over ranks while the backward pass still runs.

`paddle.DataParallel` does it in buckets, on gloo and NCCL alike, in float32 and float64, with parameters that get no
gradient, with a trunk that is used several times in one forward pass and with accumulation. It has one trap: a layer
called past its wrapper is not reduced, and the ranks drift apart in silence.
"""
from __future__ import annotations

from contextlib import contextmanager, nullcontext

import paddle
from paddle import nn

from passl.distributed.collectives import wait_for_ranks, world_size


class _ReducedLayer(paddle.DataParallel):
    """`paddle.DataParallel` that waits for late ranks before a forward pass, as gloo itself gives up after 30 s."""

    def forward(self, *inputs, **keywords):
        wait_for_ranks("forward pass")
        return super().forward(*inputs, **keywords)


def wrap(layer: nn.Layer, find_unused_parameters: bool = False, bucket_megabytes: int = 25) -> nn.Layer:
    """`layer` with gradients averaged over the ranks during `backward`; `layer` itself when there is one process.

    Weights and buffers of rank 0 are copied to all ranks here. Call the *returned* layer: what is computed through
    `layer` directly is not reduced. `find_unused_parameters` is needed when the set of parameters that take part
    changes during the run (prototypes frozen at first); it costs a walk over the graph in each step.
    `bucket_megabytes` is the size at which a group of gradients is sent.

    Freeze parameters by `stop_gradient = True` before their first backward pass: they then have no gradient at all.
    Once reduced, a gradient is a view into a bucket that `clear_gradient` can only fill with zeros, and an optimizer
    with momentum or weight decay moves a parameter with a zero gradient.
    """
    if world_size() == 1:
        return layer
    return _ReducedLayer(layer, comm_buffer_size=bucket_megabytes, last_comm_buffer_size=min(1, bucket_megabytes),
                         find_unused_parameters=find_unused_parameters)


@contextmanager
def no_sync(layer: nn.Layer):
    """Keep gradients local inside the block; the first backward pass after it reduces everything accumulated.

    For gradient accumulation: forward *and* backward of all micro-batches but the last belong into the block.
    """
    with layer.no_sync() if isinstance(layer, _ReducedLayer) else nullcontext():
        yield
