"""Losses of classifiers, chosen by name in Loss.Train and Loss.Eval."""
from __future__ import annotations

from typing import Any, List, Mapping, Sequence, Tuple

import paddle
import paddle.nn.functional as F

from passl.errors import UserError
from passl.methods.base import full_precision
from passl.registry import LOSSES


@LOSSES.register("CELoss")
class CELoss:
    """Mean cross-entropy of logits [B, C] and integer labels [B], in fp32; labels of -1 are left out.

    epsilon: label smoothing, the share of the target spread evenly over all classes (0: none, as published for probe
    and fine-tuning).
    """

    def __init__(self, epsilon: float = 0.0):
        if not 0 <= epsilon < 1:
            raise UserError(f"CELoss.epsilon is a share of the target between 0 and 1, got {epsilon}")
        self.epsilon = epsilon

    def __call__(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        if logits.ndim != 2 or list(labels.shape) != [logits.shape[0]] or labels.is_floating_point():
            raise UserError(f"CELoss needs logits [B, C] and integer labels [B], got {list(logits.shape)} and "
                            f"{labels.dtype} {list(labels.shape)}")
        if logits.dtype != paddle.float64:
            logits = logits.astype("float32")
        log_probabilities = F.log_softmax(logits, axis=1)
        labelled = (labels >= 0).astype(logits.dtype)
        own = paddle.take_along_axis(log_probabilities, labels.clip(min=0).unsqueeze(1), axis=1).squeeze(1)
        losses = -(1 - self.epsilon) * own
        if self.epsilon:
            losses = losses - self.epsilon * log_probabilities.mean(axis=1)
        return (losses * labelled).sum() / labelled.sum().clip(min=1)


class WeightedSum:
    """Sum of the losses of a Loss.Train or Loss.Eval list, each with its `weight`; CELoss when there is no list."""

    def __init__(self, entries: Sequence[Mapping[str, Mapping[str, Any]]] = ()):
        self.terms: List[Tuple[float, Any]] = []
        for entry in entries or [{"CELoss": {}}]:
            (name, arguments), = entry.items()
            arguments = dict(arguments or {})
            weight = arguments.pop("weight", 1.0)
            self.terms.append((weight, LOSSES.build({**arguments, "name": name})))

    @full_precision
    def __call__(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        return sum(weight * term(logits, labels) for weight, term in self.terms)
