"""Sinkhorn-Knopp assignments of a batch to prototypes, balanced over all ranks (SwAV section 3.1, eq. 3-5)."""
from __future__ import annotations

from typing import NamedTuple

import paddle
import paddle.nn.functional as F

from passl import distributed


class Assignments(NamedTuple):
    """`soft` [..., N, K]: every row sums to 1; `marginal_error` [...]: see `sinkhorn`."""

    soft: paddle.Tensor
    marginal_error: paddle.Tensor


@paddle.no_grad()
def sinkhorn(scores: paddle.Tensor, epsilon: float = 0.05, iterations: int = 3) -> Assignments:
    """Soft assignments that use all prototypes equally, by `iterations` rounds of prototype and sample normalisation.

    scores: [N, K] or [A, N, K] (A independent problems share every collective), fp32 or fp64 (fp16 is widened),
      the rows of *this* rank; N may differ between ranks. epsilon: entropy weight, any positive value: the iteration
      runs on log-potentials, so that nothing overflows or vanishes. iterations: at least 1; SwAV uses 3.

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
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    if iterations < 1:
        raise ValueError(f"sinkhorn needs at least one iteration, got {iterations}")
    if scores.dtype in (paddle.float16, paddle.bfloat16):
        scores = scores.astype(paddle.float32)
    logits = scores / epsilon
    local = paddle.logsumexp(logits, axis=-2)  # [A, K]
    potential = paddle.logsumexp(distributed.all_gather(local), axis=0)
    assignment = F.softmax(logits - potential.unsqueeze(-2), axis=-1)
    error = paddle.full_like(potential.sum(axis=-1), float("nan"))
    for _ in range(iterations - 1):
        mass = distributed.all_reduce(assignment.sum(axis=-2))
        error = (mass / mass.mean(axis=-1, keepdim=True) - 1.0).abs().max(axis=-1)
        potential = potential + paddle.log(mass)
        assignment = F.softmax(logits - potential.unsqueeze(-2), axis=-1)
    return Assignments(assignment, error)


def harden(assignment: paddle.Tensor) -> paddle.Tensor:
    """One-hot of each row's largest entry ("hard codes", SwAV appendix C.3); same shape and dtype."""
    return F.one_hot(assignment.argmax(axis=-1), assignment.shape[-1]).astype(assignment.dtype)
