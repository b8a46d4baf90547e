"""Norms of gradients with one wait for the device, what they tell about NaN and infinity, and clipping by them."""
from __future__ import annotations

from typing import Iterable, List, Sequence

import numpy as np
import paddle


def with_gradient(parameters: Iterable[paddle.Tensor]) -> List[paddle.Tensor]:
    """Those that an optimizer step changes."""
    return [parameter for parameter in parameters if parameter.grad is not None and not parameter.stop_gradient]


def square_sum(tensor: paddle.Tensor) -> paddle.Tensor:
    """Sum of squares as a scalar of at least fp32 (a dot product: ten times faster than Paddle's norm on a CPU)."""
    flat = tensor.detach().flatten()
    if flat.dtype in (paddle.float16, paddle.bfloat16):
        flat = flat.astype(paddle.float32)
    return paddle.dot(flat, flat)


@paddle.no_grad()
def norms(tensors: Sequence[paddle.Tensor]) -> np.ndarray:
    """Euclidean norms, float64 [n], fetched at once; infinite or NaN where a tensor holds such a value.

    They are summed in fp32, so a tensor with entries beyond 1e19 has an infinite norm too: no training recovers from
    such a gradient.
    """
    if not tensors:
        return np.zeros([0])
    return np.sqrt(paddle.stack([square_sum(tensor) for tensor in tensors]).numpy().astype(np.float64))


@paddle.no_grad()
def clip_by_global_norm(parameters: Iterable[paddle.Tensor], clip_norm: float) -> None:
    """Scale all gradients in place by clip_norm / max(clip_norm, norm of all gradients together).

    Not paddle.nn.utils.clip_grad_norm_: it adds 1e-6 to the norm, which is not what earlier runs were clipped with, and
    norms half-precision gradients in half precision; Paddle 2.6's puts new tensors in the gradients' place.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    squares = [(gradient.astype("float32") ** 2).sum() for gradient in gradients]
    norm = paddle.add_n(squares).sqrt()
    scale = clip_norm / paddle.clip(norm, min=clip_norm)
    for gradient in gradients:
        gradient.multiply_(scale.astype(gradient.dtype))
