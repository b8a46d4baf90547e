"""The confusion matrix of an evaluation as PNG and CSV, and its numbers as JSON."""
from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Optional, Sequence

import numpy as np

from passl.engine.evaluate import Evaluation
from passl.errors import UserError
from passl.evaluation.metrics import mean_class_accuracy
from passl.files import PathLike

MOST_NUMBERED_CELLS = 25 * 25  # numbers in more cells than this cannot be read


def write_evaluation(result: Evaluation, folder: Path) -> None:
    """metrics.json (with the accuracy of each class), confusion_matrix.csv and confusion_matrix.png below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({**result.summary(), "class_accuracy": result.class_accuracy()},
                                                    indent=1))
    write_csv(result.matrix, folder / "confusion_matrix.csv", result.classes)
    draw_png(result.matrix, folder / "confusion_matrix.png", result.classes)


def write_csv(matrix: np.ndarray, path: PathLike, class_names: Optional[Sequence[str]] = None) -> None:
    """Write the counts as CSV: a header of predicted classes, then one row per true class, its name first."""
    names = _names(matrix, class_names)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["true \\ predicted", *names])
        writer.writerows([name, *row] for name, row in zip(names, matrix.tolist()))


def draw_png(matrix: np.ndarray, path: PathLike, class_names: Optional[Sequence[str]] = None) -> None:
    """Draw the matrix as PNG: colour is the fraction of the true class, small matrices carry their counts.

    Needs matplotlib, no display. Names are drawn up to 50 classes. (scikit-learn's ConfusionMatrixDisplay writes into
    the cells what it colours them by, fractions, and goes through pyplot, whose state belongs to the user.)
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
