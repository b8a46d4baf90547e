"""Batch normalisation over the joined batch of all ranks, or of groups of ranks, on any device and backend.

Paddle's own SyncBatchNorm has no CPU kernel and no groups. Here the statistics travel through one all-gather in the
forward pass and one all-reduce in the backward pass of a layer. Ranks may hold unequal numbers of samples.

Gradients follow the convention of torch's SyncBatchNorm: the gradient of the input belongs to the *sum* of the losses
of all ranks, the gradients of weight and bias are this rank's share of it. Averaging parameter gradients over ranks
(`gradient_reduction.wrap`) therefore gives the gradient of the average loss, for these parameters as for all others.
"""
from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import Any, Dict, Mapping, Union

import numpy
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from passl.distributed.collectives import all_gather, all_reduce, barrier, broadcast, rank, world_size
from passl.errors import UserError


def combine_moments(counts, means, squares):
    """Joint count, mean and biased variance from those of parts of a batch (Chan, Golub and LeVeque, 1979).

    counts [R, 1], means [R, C] and squares [R, C], the sums of squared deviations from each part's own mean;
    returns scalar count, mean [C] and variance [C]. No difference of large sums is formed, so a mean far from zero
    does no harm.
    """
    count = counts.sum()
    mean = (counts * means).sum(axis=0) / count
    variance = (squares + counts * (means - mean) ** 2).sum(axis=0) / count
    return count, mean, variance


def _sum_per_channel(values, channel_last: bool):
    """[C] from [N, C, ...] or [N, ..., C]: contiguous sums first, on a CPU much faster than all at once."""
    if channel_last or values.ndim == 2:
        return values.reshape([-1, values.shape[-1]]).sum(axis=0)
    return values.flatten(start_axis=2).sum(axis=-1).sum(axis=0)


def _affine(values, scale, shift, channel_last: bool):
    """scale * values + shift for every channel, by the kernel of batch norm in evaluation.

    On a CPU it takes a quarter of the time of one product with a broadcast vector. What is far from zero is centred
    first and scaled then: in one go the difference of two large products would be rounded.
    """
    if not values.size:
        return values
    layout = {2: "NC", 3: "NLC" if channel_last else "NCL", 4: "NHWC" if channel_last else "NCHW"}[values.ndim]
    return F.batch_norm(values, paddle.zeros_like(scale), paddle.ones_like(scale), scale, shift, training=False,
                        epsilon=0.0, data_format=layout)


def _centred(values, mean, channel_last: bool):
    return _affine(values, paddle.ones_like(mean), -mean, channel_last)


class _JointNormalise(PyLayer):
    @staticmethod
    def forward(ctx, inputs, weight, bias, epsilon, channel_last, group):
        wide = inputs if inputs.dtype == paddle.float64 else inputs.astype("float32")
        channels = weight.shape[0]
        local_count = paddle.full([1], inputs.size / channels, dtype=wide.dtype)
        if inputs.size:
            local_mean = _sum_per_channel(wide, channel_last) / local_count
            local_squares = _sum_per_channel(paddle.square(_centred(wide, local_mean, channel_last)), channel_last)
        else:
            local_mean = local_squares = paddle.zeros([channels], dtype=wide.dtype)
        parts = all_gather(paddle.concat([local_count, local_mean, local_squares]), group)
        count, mean, variance = combine_moments(parts[:, :1], parts[:, 1: channels + 1], parts[:, channels + 1:])
        inverse_deviation = 1 / paddle.sqrt(variance + epsilon)
        # The inputs as they came, which the layer before holds as well; a float32 copy would double what a layer keeps.
        ctx.save_for_backward(inputs, weight, paddle.stack([mean, inverse_deviation]), count)
        ctx.channel_last, ctx.group = channel_last, group
        ctx.wanted = [not tensor.stop_gradient for tensor in (inputs, weight, bias)]
        output = _affine(_centred(wide, mean, channel_last), weight * inverse_deviation, bias, channel_last)
        ctx.mark_non_differentiable(mean, variance)
        return output.astype(inputs.dtype), mean, variance

    @staticmethod
    def backward(ctx, gradient, *_):
        inputs, weight, moments, count = ctx.saved_tensor()
        channel_last = ctx.channel_last
        mean, inverse_deviation = moments
        centred = _centred(inputs.astype(mean.dtype), mean, channel_last)
        normalised = _affine(centred, inverse_deviation, paddle.zeros_like(mean), channel_last)
        gradient = gradient.astype(mean.dtype)
        bias_gradient = _sum_per_channel(gradient, channel_last)
        weight_gradient = _sum_per_channel(gradient * normalised, channel_last)
        joint = all_reduce(paddle.concat([bias_gradient, weight_gradient]), group=ctx.group) / count
        mean_gradient, mean_product = paddle.split(joint, 2)
        scale = weight * inverse_deviation
        inputs_gradient = (_affine(gradient, scale, -scale * mean_gradient, channel_last)
                           + _affine(normalised, -scale * mean_product, paddle.zeros_like(scale), channel_last))
        gradients = inputs_gradient.astype(inputs.dtype), weight_gradient, bias_gradient
        return tuple(gradient if wanted else None for gradient, wanted in zip(gradients, ctx.wanted))


class _JointBatchNorm(nn.Layer):
    """The forward pass shared by the two layers below; it stands before Paddle's class, which owns the state."""

    def join(self, plain: nn.Layer, group) -> "_JointBatchNorm":
        """Take over the parameters and buffers of `plain`: the same objects under the same names."""
        self.weight, self.bias = plain.weight, plain.bias
        self._mean, self._variance = plain._mean, plain._variance
        self.training = plain.training
        self._group = group
        return self

    def forward(self, inputs):
        if not self.training:
            return super().forward(inputs)
        weight = self.weight if self.weight is not None else paddle.ones([self._num_features], dtype=self._mean.dtype)
        bias = self.bias if self.bias is not None else paddle.zeros([self._num_features], dtype=self._mean.dtype)
        channel_last = self._data_format in ("NHWC", "NLC")
        # Paddle's kernels hold both numbers as float32, whatever the dtype of the data.
        epsilon, keep = float(numpy.float32(self._epsilon)), float(numpy.float32(self._momentum))
        outputs, mean, variance = _JointNormalise.apply(inputs, weight, bias, epsilon, channel_last, self._group)
        with paddle.no_grad():
            # Paddle's convention: `momentum` is what stays of the old value, and the variance is the biased one.
            for running, batch in ((self._mean, mean), (self._variance, variance)):
                running.set_value(keep * running + (1 - keep) * batch.astype(running.dtype))
        return outputs


class JointBatchNorm1D(_JointBatchNorm, nn.BatchNorm1D):
    """`paddle.nn.BatchNorm1D` whose training statistics are those of the joined batch; made by `convert_batch_norm`."""


class JointBatchNorm2D(_JointBatchNorm, nn.BatchNorm2D):
    """`paddle.nn.BatchNorm2D` whose training statistics are those of the joined batch; made by `convert_batch_norm`."""


_JOINT = {nn.BatchNorm1D: JointBatchNorm1D, nn.BatchNorm2D: JointBatchNorm2D}


def group_size(mode: Union[str, Mapping[str, int]], ranks: int) -> int:
    """How many ranks share batch statistics: `none` is 1, `global` all `ranks`, `{group: 8}` or `group:8` eight.

    ValueError for another mode, and for a size that does not divide the number of ranks (SwAV's recipes: groups of 8,
    one node, spec of the reference run; half the time of global statistics and no accuracy lost).
    """
    if mode in ("none", "global"):
        return 1 if mode == "none" else ranks
    given: Any = mode.get("group") if isinstance(mode, Mapping) and len(mode) == 1 else None
    if isinstance(mode, str) and mode.startswith("group:"):
        given = mode[len("group:"):].strip()
    try:
        size = int(given)
    except (TypeError, ValueError):
        raise UserError(f"batch norm mode {mode!r} is not known; choose none, global or group:8") from None
    if size < 1 or (ranks > 1 and ranks % size):
        divisors = [str(divisor) for divisor in range(1, ranks + 1) if ranks % divisor == 0]
        raise UserError(f"batch norm groups of {size} do not divide {ranks} ranks",
                        f"choose a size among {', '.join(divisors)}")
    return min(size, ranks)


@functools.lru_cache(maxsize=None)
def _own_group(size: int):
    """The process group of `size` consecutive ranks that holds this rank, made once; None stands for all ranks."""
    if size == world_size():
        return None
    groups = []
    for first in range(0, world_size(), size):
        # Every rank creates every group, in the same order: that is how new_group agrees on their names. One group at
        # a time: ranks of a later group otherwise connect while those of an earlier one still do.
        barrier()
        groups.append(paddle.distributed.new_group(list(range(first, first + size))))
    barrier()
    return groups[rank() // size]


def convert_batch_norm(layer: nn.Layer, mode: Union[str, Mapping[str, int]] = "global") -> nn.Layer:
    """Let the BatchNorm1D and BatchNorm2D layers inside `layer` share their training statistics over ranks.

    Parameters and buffers stay the same objects under the same names, so optimizers and checkpoints do not notice.
    Works in place and returns `layer` (or its replacement when it is a batch norm itself). With one process, or
    groups of one rank, nothing changes. `global` on GPU uses `paddle.nn.SyncBatchNorm`, which needs the same batch size
    on every rank; everything else uses the layers of this module. Layers with `use_global_stats` are left alone.
    Call it on every rank at the same point: groups are created collectively. ValueError: see `group_size`.
    """
    size = group_size(mode, world_size())
    if size == 1:
        return layer
    if size == world_size() and paddle.get_device().startswith("gpu"):
        return nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    group = _own_group(size)

    def build(plain):
        if plain._use_global_stats:
            return plain
        # The new layer's own parameters are dropped at once; the guard keeps them from using up parameter names.
        with paddle.utils.unique_name.guard():
            joint = _JOINT[type(plain)](plain._num_features, plain._momentum, plain._epsilon,
                                        data_format=plain._data_format)
        return joint.join(plain, group)

    for parent in layer.sublayers(include_self=True):
        for name, child in list(parent.named_children()):
            if type(child) in _JOINT:
                setattr(parent, name, build(child))
    return build(layer) if type(layer) in _JOINT else layer


def running_statistics(layer: nn.Layer) -> Dict[str, paddle.Tensor]:
    """The running means and variances of all batch norms inside `layer`, by name."""
    found = {}
    for prefix, part in layer.named_sublayers(include_self=True):
        if isinstance(part, nn.layer.norm._BatchNormBase):
            found.update({f"{prefix}.{name}" if prefix else name: getattr(part, name) for name in
                          ("_mean", "_variance")})
    return found


@contextmanager
def statistics_of_rank_0(layer: nn.Layer):
    """Let every rank use rank 0's running statistics inside the block; afterwards each has its own again.

    One broadcast. For evaluating, as one network, what ranks with batch statistics of their own have trained.
    """
    buffers = list(running_statistics(layer).values())
    if world_size() == 1 or not buffers:
        yield
        return
    own = [buffer.clone() for buffer in buffers]
    joined = broadcast(paddle.concat([buffer.flatten() for buffer in buffers]))
    try:
        for buffer, values in zip(buffers, paddle.split(joined, [buffer.size for buffer in buffers])):
            buffer.set_value(values.reshape(buffer.shape))
        yield
    finally:
        for buffer, values in zip(buffers, own):
            buffer.set_value(values)
