"""Confusion matrix over all ranks, mean per-class accuracy, and their PNG and CSV."""
from __future__ import annotations

import csv
from pathlib import Path
from typing import Dict, Optional, Sequence, Union

import numpy as np
import paddle

from passl.errors import UserError
from passl.evaluation.metrics import all_ranks, check_logits, count_faults, raise_for_faults
from passl.registry import METRICS

MOST_NUMBERED_CELLS = 25 * 25  # numbers in more cells than this cannot be read


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

    def matrix(self, collectives=None) -> np.ndarray:
        """int64 [C, C] over all ranks, rows are true classes; every rank must have seen a batch (it may be empty)."""
        if self._state is None:
            raise UserError("ConfusionMatrix saw no batch: the evaluation set is empty")
        state = all_ranks(self._state, collectives)
        raise_for_faults(state[-2:], self._classes)
        return state[:-3].reshape(self._classes, self._classes)

    def result(self, collectives=None) -> Dict[str, float]:
        """{"mean_class_accuracy": .., "metric": the same} as fractions, over all ranks (one all-reduce)."""
        accuracy = mean_class_accuracy(self.matrix(collectives))
        return {"mean_class_accuracy": accuracy, "metric": accuracy}


def mean_class_accuracy(matrix: np.ndarray) -> float:
    """Mean over the classes that have images of the fraction predicted right; `matrix` [C, C], rows true classes."""
    images = matrix.sum(1)
    if not images.any():
        raise UserError("the confusion matrix is empty: there was no labelled image")
    return float((np.diag(matrix)[images > 0] / images[images > 0]).mean())


def write_csv(matrix: np.ndarray, path: Union[str, Path], class_names: Optional[Sequence[str]] = None) -> None:
    """Write the counts as CSV: a header of predicted classes, then one row per true class, its name first."""
    names = _names(matrix, class_names)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["true \\ predicted", *names])
        writer.writerows([name, *row] for name, row in zip(names, matrix.tolist()))


def draw_png(matrix: np.ndarray, path: Union[str, Path], class_names: Optional[Sequence[str]] = None) -> None:
    """Draw the matrix as PNG: colour is the fraction of the true class, small matrices carry their counts.

    Needs matplotlib, no display. Names are drawn up to 50 classes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = _names(matrix, class_names)
    classes = len(matrix)
    fractions = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = float(np.clip(0.45 * classes + 2, 5, 14))
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="predicted class", ylabel="true class",
             title=f"mean per-class accuracy {100 * mean_class_accuracy(matrix):.2f} %")
    if classes <= 50:
        axes.set_xticks(range(classes), names, rotation=90)
        axes.set_yticks(range(classes), names)
    if matrix.size <= MOST_NUMBERED_CELLS:
        for row, column in np.ndindex(*matrix.shape):
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=7,
                      color="white" if fractions[row, column] > 0.5 else "black")
    figure.colorbar(image, ax=axes, fraction=0.046, label="fraction of the true class")
    FigureCanvasAgg(figure).print_png(str(path))


def _names(matrix: np.ndarray, class_names) -> Sequence[str]:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise UserError(f"a confusion matrix is [C, C], got {list(matrix.shape)}")
    if class_names is None:
        return [str(number) for number in range(len(matrix))]
    if len(class_names) != len(matrix):
        raise UserError(f"{len(class_names)} class names for a confusion matrix of {len(matrix)} classes")
    return list(class_names)
