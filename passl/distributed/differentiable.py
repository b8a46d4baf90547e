"""A sum over ranks that gradients flow through."""
from __future__ import annotations

from paddle.autograd import PyLayer

from passl.distributed.collectives import all_reduce


class _Sum(PyLayer):
    @staticmethod
    def forward(ctx, tensor, group):
        ctx.group = group
        return all_reduce(tensor, group=group)

    @staticmethod
    def backward(ctx, gradient):
        return all_reduce(gradient, group=ctx.group)


def all_reduce_sum(tensor, group=None):
    """The sum of `tensor` over the ranks, differentiable: shape and dtype as given.

    Its gradient is that of the sum of the losses of all ranks, hence the sum of the incoming gradients over ranks: one
    collective forward, one backward. Every rank must run both passes.
    """
    return _Sum.apply(tensor, group)
