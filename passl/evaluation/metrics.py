"""Classification accuracies that are counted exactly over all ranks, short last batches included."""
from __future__ import annotations

from typing import Dict, List, Union

import numpy as np
import paddle

from passl import distributed
from passl.errors import NotFinite, UserError
from passl.registry import METRICS


def check_logits(logits, labels):
    """`logits` [B, C] (float32 or float64, halves widened) and `labels` int64 [B]; ValueError when they do not fit."""
    logits, labels = (x.detach() if isinstance(x, paddle.Tensor) else paddle.to_tensor(x) for x in (logits, labels))
    if len(labels.shape) == 2 and labels.shape[1] == 1:
        labels = labels.squeeze(1)
    if len(logits.shape) != 2 or list(labels.shape) != [logits.shape[0]]:
        raise UserError(f"logits must be [B, classes] and labels [B], got {list(logits.shape)} and "
                        f"{list(labels.shape)}")
    if not logits.is_floating_point() or labels.is_floating_point():
        raise UserError(f"logits must be float and labels integer, got {logits.dtype} and {labels.dtype}")
    if logits.dtype not in (paddle.float32, paddle.float64):
        logits = logits.astype("float32")
    return logits, labels.astype("int64")


def count_faults(logits, labels):
    """int64 [2]: rows of logits with NaN or infinity, and labels outside -1..C-1; stays on the device."""
    broken = paddle.logical_not(paddle.isfinite(logits)).any(axis=1)
    outside = paddle.logical_or(labels < -1, labels >= logits.shape[1])
    return paddle.stack([broken.astype("int64").sum(), outside.astype("int64").sum()])


def raise_for_faults(faults, classes: int) -> None:
    """Raise for the counts of `count_faults`, summed over batches and ranks."""
    if faults[0]:
        raise NotFinite(f"{int(faults[0])} images have logits with NaN or infinity: the model has diverged "
                        "or its weights are damaged")
    if faults[1]:
        raise UserError(f"{int(faults[1])} labels are outside -1..{classes - 1}: the model has {classes} classes, the "
                        "data has more; set the model's number of classes")


@METRICS.register("TopkAcc")
class TopkAcc:
    """Top-k accuracies as fractions; the first k is also reported as "metric", by which the best model is chosen.

    A label is a hit at k when fewer than k classes have a larger logit, a class of equal logit counting as larger when
    its number is smaller. Labels of -1 are left out. Counts are integers that stay on the device until `result`.

    Args:
        topk: the k's. A k above the number of classes is an error at the first update.
    """

    def __init__(self, topk: Union[int, List[int]] = (1, 5)):  # type: ignore[assignment]  # a list could be changed
        self.topk = [topk] if isinstance(topk, int) else list(topk)
        if not self.topk or any(not isinstance(k, int) or k < 1 for k in self.topk) or len(set(self.topk)) < len(
                self.topk):
            raise UserError(f"TopkAcc.topk must be distinct integers from 1, got {topk}")
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._classes = 0
        self._state = paddle.zeros([len(self.topk) + 3], dtype="int64")  # hits per k, images, faults

    def update(self, logits, labels) -> None:
        """Count one batch of this rank: logits float [B, C], labels int [B] or [B, 1]; B may be 0."""
        logits, labels = check_logits(logits, labels)
        self._classes = logits.shape[1]
        if max(self.topk) > self._classes:
            raise UserError(f"TopkAcc.topk holds {max(self.topk)} but there are {self._classes} classes; set "
                            f"Metric.Eval TopkAcc topk to {[k for k in self.topk if k <= self._classes] or [1]}")
        if logits.shape[0] == 0:
            return
        inside = labels.clip(0, self._classes - 1).unsqueeze(1)
        truth = paddle.take_along_axis(logits, inside, axis=1)
        earlier = paddle.arange(self._classes).unsqueeze(0) < inside
        ahead = paddle.logical_or(logits > truth, paddle.logical_and(logits == truth, earlier))
        ahead = ahead.astype("int64").sum(axis=1)
        labelled = labels >= 0
        counts = [paddle.logical_and(ahead < k, labelled).astype("int64").sum() for k in self.topk]
        counts.append(labelled.astype("int64").sum())
        self._state = self._state + paddle.concat([paddle.stack(counts), count_faults(logits, labels)])

    def result(self, collectives=distributed) -> Dict[str, float]:
        """{"top1": .., "top5": .., "metric": first} over all ranks (one all-reduce); equal on all of them.

        FloatingPointError when logits were not finite; ValueError when there was no labelled image.
        """
        state = collectives.all_reduce(self._state, "sum").numpy()
        raise_for_faults(state[-2:], self._classes)
        if state[-3] == 0:
            raise UserError("TopkAcc saw no labelled image: the evaluation set is empty or all its labels are -1")
        fractions = (state[:-3] / state[-3]).tolist()
        return {**{f"top{k}": value for k, value in zip(self.topk, fractions)}, "metric": fractions[0]}


@METRICS.register("ConfusionMatrix")
class ConfusionMatrix:
    """Counts of (true class, predicted class); reports the mean over classes of the accuracy within each class.

    Predictions are the argmax of the logits, the lowest class on a tie; labels of -1 are left out; classes without an
    image do not enter the mean.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._classes = 0
        self._state = None

    def update(self, logits, labels) -> None:
        """Count one batch of this rank: logits float [B, C], labels int [B] or [B, 1]; B may be 0."""
        logits, labels = check_logits(logits, labels)
        if self._classes not in (0, logits.shape[1]):
            raise UserError(f"batches of {self._classes} and of {logits.shape[1]} classes in one confusion matrix")
        self._classes = logits.shape[1]
        cells = self._classes**2
        if self._state is None:
            self._state = paddle.zeros([cells + 3], dtype="int64")  # cells, unlabelled, faults
        if logits.shape[0] == 0:
            return
        inside = labels.clip(0, self._classes - 1) * self._classes + logits.argmax(axis=1)
        cell = paddle.where(labels >= 0, inside, paddle.full_like(inside, cells))
        counts = paddle.bincount(cell, minlength=cells + 1)
        self._state = self._state + paddle.concat([counts.astype("int64"), count_faults(logits, labels)])

    def matrix(self, collectives=distributed) -> np.ndarray:
        """int64 [C, C] over all ranks, rows are true classes; every rank must have seen a batch (it may be empty)."""
        if self._state is None:
            raise UserError("ConfusionMatrix saw no batch: the evaluation set is empty")
        state = collectives.all_reduce(self._state, "sum").numpy()
        raise_for_faults(state[-2:], self._classes)
        return state[:-3].reshape(self._classes, self._classes)

    def result(self, collectives=distributed) -> Dict[str, float]:
        """{"mean_class_accuracy": .., "metric": the same} as fractions, over all ranks (one all-reduce)."""
        accuracy = mean_class_accuracy(self.matrix(collectives))
        return {"mean_class_accuracy": accuracy, "metric": accuracy}


def mean_class_accuracy(matrix: np.ndarray) -> float:
    """Mean over the classes that have images of the fraction predicted right; `matrix` [C, C], rows true classes."""
    images = matrix.sum(1)
    if not images.any():
        raise UserError("the confusion matrix is empty: there was no labelled image")
    return float((np.diag(matrix)[images > 0] / images[images > 0]).mean())
