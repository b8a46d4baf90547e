"""Sinkhorn-Knopp assignments of a batch to prototypes, balanced over all ranks (SwAV section 3.1, eq. 3-5)."""
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F

from passl import distributed
from passl.arrays import raise_if_not_finite
from passl.errors import UserError


class Assignments(NamedTuple):
    """`soft` [..., N, K]: every row sums to 1; `marginal_error` [...]: see `sinkhorn`."""

    soft: Any
    marginal_error: Any


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
        collectives: offers all_reduce and all_gather; `passl.distributed` unless given. One all-reduce of a number, one
            all-gather of A*K numbers, then `iterations - 1` all-reduces of A*K numbers.
    Returns:
        Assignments, arrays of the kind that came in. `marginal_error` is the largest relative deviation of a
        prototype's share from 1/K that the last prototype step found, i.e. after iterations - 1 rounds (nan for one
        iteration): it is free, where the final one would cost another collective.
    Raises:
        ValueError: anything else than a float array of two or three dimensions, or options out of range.
        FloatingPointError: a score on any rank is not finite, or not when divided by epsilon (raised on all ranks).
    Example:
        Three of four samples prefer the first prototype; balanced, each prototype gets two.

        >>> import numpy as np
        >>> from passl.clustering import sinkhorn
        >>> scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.5], [0.1, 0.7]])
        >>> soft, marginal_error = sinkhorn(scores, epsilon=0.05, iterations=3)
        >>> soft.argmax(1).tolist(), soft.sum(1).round(6).tolist()
        ([0, 0, 1, 1], [1.0, 1.0, 1.0, 1.0])
    """
    is_tensor = isinstance(scores, paddle.Tensor)
    if not is_tensor:
        scores = np.asarray(scores)
    _check(scores, epsilon, iterations)
    scores = scores if is_tensor else paddle.to_tensor(scores)
    broken = paddle.logical_not(paddle.isfinite(_widened(scores.detach()) / epsilon)).any(axis=-1).numpy()
    bad = np.flatnonzero(broken)
    raise_if_not_finite(len(bad), int(bad[0]) % broken.shape[-1] if len(bad) else None, "scores", collectives)
    found = sinkhorn_unchecked(scores, epsilon, iterations, collectives=collectives)
    return found if is_tensor else Assignments(found.soft.numpy(), found.marginal_error.numpy())


@paddle.no_grad()
def sinkhorn_unchecked(scores: paddle.Tensor, epsilon: float, iterations: int, *,
                       collectives=distributed) -> Assignments:
    """`sinkhorn` of a tensor without the look for NaN, for which an accelerator would wait in every training step.

    The assignments of a problem with a score that is not finite mean nothing, on any rank. A training step notices by
    its loss, which such a score makes NaN, too.
    """
    _check(scores, epsilon, iterations)
    scores = _widened(scores)
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
    return Assignments(assignment, error)


def _check(scores, epsilon: float, iterations: int) -> None:
    """What can be told of the arguments without waiting for the device."""
    if not epsilon > 0:
        raise UserError(f"epsilon must be positive, got {epsilon}")
    if iterations < 1:
        raise UserError(f"sinkhorn needs at least one iteration, got {iterations}")
    kind = str(scores.dtype).replace("paddle.", "")
    if len(scores.shape) not in (2, 3) or kind not in ("float16", "bfloat16", "float32", "float64"):
        raise UserError(f"sinkhorn needs float scores [N, K] or [A, N, K], got {kind} of shape {list(scores.shape)}")


def _widened(scores: paddle.Tensor) -> paddle.Tensor:
    return scores if scores.dtype in (paddle.float32, paddle.float64) else scores.astype(paddle.float32)


def harden(assignment: paddle.Tensor) -> paddle.Tensor:
    """One-hot of each row's largest entry ("hard codes", SwAV appendix C.3); same shape and dtype."""
    return F.one_hot(assignment.argmax(axis=-1), assignment.shape[-1]).astype(assignment.dtype)
