"""Sinkhorn-Knopp assignments of a batch to prototypes, balanced over all ranks (SwAV section 3.1, eq. 3-5)."""
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F

from passl.arrays import default_collectives
from passl.errors import UserError


class Assignments(NamedTuple):
    """`soft` [..., N, K]: every row sums to 1; `marginal_error` [...]: see `sinkhorn`."""

    soft: Any
    marginal_error: Any


@paddle.no_grad()
def sinkhorn(scores, epsilon: float = 0.05, iterations: int = 3, *, collectives=None) -> Assignments:
    """Soft assignments that use all prototypes equally, by `iterations` rounds of prototype and sample normalisation.

    scores: [N, K] or [A, N, K] (A independent problems share every collective), NumPy or Paddle, fp32 or fp64 (fp16 is
      widened), the rows of *this* rank; N may differ between ranks. epsilon: entropy weight, any positive value: the
      iteration runs on log-potentials, so that nothing overflows or vanishes. iterations: at least 1; SwAV uses 3.
      collectives: offers all_reduce and all_gather; `passl.distributed` unless given.

    Returns arrays of the kind that came in. A score of NaN or +infinity on any rank makes the assignments of its whole
    problem NaN on all ranks: looking for it would make an accelerator wait, and a training step must not. Raises
    ValueError for anything else than a float array of two or three dimensions.

    Collectives: one all-gather of A*K numbers, then `iterations - 1` all-reduces of A*K numbers.

    The reference normalises by the global sum first; that factor cancels in the first prototype normalisation and is
    left out. With x = scores/epsilon and a potential u per prototype the iteration reads
      u <- logsumexp over all samples of x;   Q = softmax over prototypes of (x - u);
      then, iterations - 1 times:  u <- u + log(sum over all samples of Q);  Q = softmax(x - u).
    A prototype's sum cannot vanish after the first round: its largest normalised entry is at least 1/N_total.

    `marginal_error` is the largest relative deviation of a prototype's share from 1/K that the last prototype step
    found, i.e. after iterations - 1 rounds (nan for a single iteration): free, where the exact final one would cost
    another collective.
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
    collectives = collectives or default_collectives()
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
