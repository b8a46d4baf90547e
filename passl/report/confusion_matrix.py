"""The confusion matrix of an evaluation as PNG and CSV, and its numbers as JSON."""
from __future__ import annotations

import csv
import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import AbstractSet, List, Optional, Sequence, Tuple

import numpy as np

from passl import files
from passl.engine.evaluate import Evaluation
from passl.errors import UserError
from passl.evaluation.metrics import mean_class_accuracy
from passl.files import PathLike

LOGGER = logging.getLogger("passl")
MOST_NUMBERED_CELLS = 25 * 25  # numbers in more cells than this cannot be read


def write_evaluation(result: Evaluation, folder: Path) -> None:
    """metrics.json (with the accuracy of each class), confusion_matrix.csv and confusion_matrix.png below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "metrics.json",
                     json.dumps({**result.summary(), "class_accuracy": result.class_accuracy()}, indent=1))
    write_csv(result.matrix, folder / "confusion_matrix.csv", result.classes)
    draw_png(result.matrix, folder / "confusion_matrix.png", result.classes)


def write_csv(matrix: np.ndarray, path: PathLike, class_names: Optional[Sequence[str]] = None) -> None:
    """Write the counts as CSV: a header of predicted classes, then one row per true class, its name first."""
    names = _names(matrix, class_names)
    with files.written_text(path) as file:
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
        texts, fonts = _texts_and_fonts(names, path)
        axes.set_xticks(range(classes), texts, rotation=90)
        axes.set_yticks(range(classes), texts)
        for label, font in zip([*axes.get_xticklabels(), *axes.get_yticklabels()], [*fonts, *fonts]):
            if font:
                label.set_fontfamily(font)
    if matrix.size <= MOST_NUMBERED_CELLS:
        for row, column in np.ndindex(*matrix.shape):
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=7,
                      color="white" if fractions[row, column] > 0.5 else "black")
    figure.colorbar(image, ax=axes, fraction=0.046, label="fraction of the true class")
    FigureCanvasAgg(figure).print_png(str(path))


def _texts_and_fonts(names: Sequence[str], path: PathLike) -> Tuple[List[str], List[Optional[str]]]:
    """What stands at each class, and in which font; the number of the class where no font has all letters."""
    shown = [name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name in names]
    fonts = [_font_for(name) for name in shown]
    texts = [str(number) if font is None else name.replace("$", r"\$")  # no formula
             for number, (name, font) in enumerate(zip(shown, fonts))]
    if None in fonts:
        LOGGER.warning(f"no installed font has all letters of the class name '{shown[fonts.index(None)]}': {path} has "
                       f"the numbers of {fonts.count(None)} classes, from 0, instead of their names; with a font that "
                       "has these letters, for instance Noto Sans CJK, it has the names")
    return texts, fonts


def _font_for(text: str) -> Optional[str]:
    """Family of an installed font with all letters of `text`: "" when the usual one has them, None when none has."""
    from matplotlib import font_manager

    if _has_letters(font_manager.findfont(font_manager.FontProperties()), text):
        return ""
    return next((font.name for font in sorted(font_manager.fontManager.ttflist, key=lambda font: font.name)
                 if "Last Resort" not in font.name and font.style == "normal"  # that one has a box for every letter
                 and _has_letters(font.fname, text)), None)


def _has_letters(font: str, text: str) -> bool:
    try:
        return {ord(letter) for letter in text} <= _letters(font)
    except (OSError, RuntimeError):  # matplotlib remembers fonts that are gone
        return False


@lru_cache(maxsize=None)
def _letters(font: str) -> AbstractSet[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(font).get_charmap())


def _names(matrix: np.ndarray, class_names) -> Sequence[str]:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise UserError(f"a confusion matrix is [C, C], got {list(matrix.shape)}")
    if class_names is None:
        return [str(number) for number in range(len(matrix))]
    if len(class_names) != len(matrix):
        raise UserError(f"{len(class_names)} class names for a confusion matrix of {len(matrix)} classes")
    return list(class_names)
