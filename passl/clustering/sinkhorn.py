"""Sinkhorn-Knopp assignments of a batch to prototypes, balanced over all ranks (SwAV section 3.1, eq. 3-5)."""
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F

from passl import distributed
from passl.errors import UserError


class Assignments(NamedTuple):
    """`soft` [..., N, K]: every row sums to 1; `marginal_error` [...]: see `sinkhorn`."""

    soft: Any
    marginal_error: Any


@paddle.no_grad()
def sinkhorn(scores, epsilon: float = 0.05, iterations: int = 3, *, collectives=distributed) -> Assignments:
    """Soft assignments that use all prototypes equally (SwAV section 3.1, eq. 3-5).

    Each iteration gives every prototype the same share of the samples, then every sample the sum 1. It runs on
    log-potentials, so nothing overflows or vanishes for any epsilon. With x = scores / epsilon and a potential u for
    each prototype:
      u <- logsumexp over all samples of x;   Q = softmax over prototypes of (x - u);
      then, iterations - 1 times:  u <- u + log(sum over all samples of Q);  Q = softmax(x - u).
    The reference divides by the global sum first; that factor cancels in the first step and is left out. A prototype's
    sum cannot vanish after the first round: its largest normalised entry is at least 1/N_total.

    Args:
        scores: [N, K], or [A, N, K] for A independent problems that share every collective; the rows of *this* rank,
            whose number may differ between ranks. NumPy or Paddle, float32 or float64; half precision is widened.
        epsilon: entropy weight; smaller gives sharper assignments.
        iterations: at least 1; SwAV uses 3.
        collectives: offers all_reduce and all_gather; `passl.distributed` unless given. One all-gather of A*K numbers,
            then `iterations - 1` all-reduces of A*K numbers.
    Returns:
        Assignments, arrays of the kind that came in. `marginal_error` is the largest relative deviation of a
        prototype's share from 1/K that the last prototype step found, i.e. after iterations - 1 rounds (nan for one
        iteration): it is free, where the final one would cost another collective. A score of NaN or +infinity on any
        rank makes the assignments of its whole problem NaN on all ranks: looking for it would make an accelerator
        wait, and a training step must not.
    Raises:
        ValueError: anything else than a float array of two or three dimensions, or options out of range.
    Example:
        Three of four samples prefer the first prototype; balanced, each prototype gets two.

        >>> import numpy as np
        >>> from passl.clustering import sinkhorn
        >>> scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.5], [0.1, 0.7]])
        >>> soft, marginal_error = sinkhorn(scores, epsilon=0.05, iterations=3)
        >>> soft.argmax(1).tolist(), soft.sum(1).round(6).tolist()
        ([0, 0, 1, 1], [1.0, 1.0, 1.0, 1.0])
    """
    if epsilon <= 0:
        raise UserError(f"epsilon must be positive, got {epsilon}")
    if iterations < 1:
        raise UserError(f"sinkhorn needs at least one iteration, got {iterations}")
    is_tensor = isinstance(scores, paddle.Tensor)
    if not is_tensor:
        scores = np.asarray(scores)
    kind = str(scores.dtype).replace("paddle.", "")
    if len(scores.shape) not in (2, 3) or kind not in ("float16", "bfloat16", "float32", "float64"):
        raise UserError(f"sinkhorn needs float scores [N, K] or [A, N, K], got {kind} of shape {list(scores.shape)}")
    scores = scores if is_tensor else paddle.to_tensor(scores)
    if kind in ("float16", "bfloat16"):
        scores = scores.astype(paddle.float32)
    logits = scores / epsilon
    local = paddle.logsumexp(logits, axis=-2)  # [A, K]
    potential = paddle.logsumexp(collectives.all_gather(local), axis=0)
    assignment = F.softmax(logits - potential.unsqueeze(-2), axis=-1)
    error = paddle.full_like(potential.sum(axis=-1), float("nan"))
    for _ in range(iterations - 1):
        mass = collectives.all_reduce(assignment.sum(axis=-2))
        error = (mass / mass.mean(axis=-1, keepdim=True) - 1.0).abs().max(axis=-1)
        potential = potential + paddle.log(mass)
        assignment = F.softmax(logits - potential.unsqueeze(-2), axis=-1)
    return Assignments(assignment, error) if is_tensor else Assignments(assignment.numpy(), error.numpy())


def harden(assignment: paddle.Tensor) -> paddle.Tensor:
    """One-hot of each row's largest entry ("hard codes", SwAV appendix C.3); same shape and dtype."""
    return F.one_hot(assignment.argmax(axis=-1), assignment.shape[-1]).astype(assignment.dtype)
