"""Gradient clipping by the norm over all parameter groups."""
from __future__ import annotations

from typing import Iterable

import paddle


@paddle.no_grad()
def clip_by_global_norm(parameters: Iterable[paddle.Tensor], clip_norm: float) -> None:
    """Scale all gradients in place by clip_norm / max(clip_norm, norm of all gradients together)."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    squares = [(gradient.astype("float32") ** 2).sum() for gradient in gradients]
    norm = paddle.add_n(squares).sqrt()
    scale = clip_norm / paddle.clip(norm, min=clip_norm)
    for gradient in gradients:
        gradient.multiply_(scale.astype(gradient.dtype))
