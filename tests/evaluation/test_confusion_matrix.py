import csv
import warnings

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from passl.evaluation.metrics import ConfusionMatrix, mean_class_accuracy
from passl.registry import METRICS
from passl.report import confusion_matrix as report
from passl.report.confusion_matrix import draw_png, write_csv
from tests.simulated_ranks import run_ranks


def one_hot(predictions, classes):
    return np.eye(classes, dtype=np.float32)[predictions]


LABELS = np.array([0, 0, 0, 0, 1, 1, 3, -1])
PREDICTIONS = np.array([0, 0, 1, 2, 1, 0, 3, 3])
MATRIX = [[2, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_counts_and_mean_class_accuracy():
    metric = METRICS.build({"name": "ConfusionMatrix"})
    for part in (slice(0, 5), slice(5, 8), slice(8, 8)):
        metric.update(one_hot(PREDICTIONS, 4)[part], LABELS[part])
    assert metric.matrix().tolist() == MATRIX
    expected = (0.5 + 0.5 + 1) / 3  # class 2 has no image
    assert metric.result() == {"mean_class_accuracy": pytest.approx(expected), "metric": pytest.approx(expected)}
    metric.reset()
    metric.update(one_hot([1], 2), np.array([1]))
    assert metric.matrix().tolist() == [[0, 0], [0, 1]]


def test_ranks_give_what_one_process_gives():
    def run(rank, collectives):
        metric = ConfusionMatrix()
        part = slice(0, 3) if rank == 0 else slice(3, 8)
        metric.update(one_hot(PREDICTIONS, 4)[part], LABELS[part])
        return metric.matrix(collectives).tolist()

    assert run_ranks(2, run) == [MATRIX] * 2


def test_csv_and_png(tmp_path):
    names = ["cat", "dög", "a,b", "x"]
    write_csv(np.array(MATRIX), tmp_path / "matrix.csv", names)
    with open(tmp_path / "matrix.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == names and [row[0] for row in rows[1:]] == names
    assert [[int(cell) for cell in row[1:]] for row in rows[1:]] == MATRIX

    draw_png(np.array(MATRIX), tmp_path / "matrix.png", names)
    from PIL import Image
    with Image.open(tmp_path / "matrix.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) >= 400 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_large_matrix_is_drawn_without_numbers(tmp_path):
    draw_png(np.eye(200, dtype=np.int64), tmp_path / "large.png")
    assert (tmp_path / "large.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("call, error, message", [
    (lambda: ConfusionMatrix().matrix(), ValueError, "no batch"),
    (lambda: mean_class_accuracy(np.zeros((3, 3), np.int64)), ValueError, "no labelled image"),
    (lambda: write_csv(np.eye(3), "never.csv", ["a"]), ValueError, "1 class names .* 3 classes"),
    (lambda: draw_png(np.zeros((2, 3)), "never.png"), ValueError, r"\[2, 3\]"),
])
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_faults_are_raised_at_the_end():
    metric = ConfusionMatrix()
    metric.update(np.array([[0.0, np.nan]]), np.array([0]))
    with pytest.raises(FloatingPointError, match="1 images"):
        metric.result()
    metric.reset()
    metric.update(np.array([[0.0, 1.0]]), np.array([5]))
    with pytest.raises(ValueError, match="1 labels are outside"):
        metric.result()
    with pytest.raises(ValueError, match="batches of 2 and of 3 classes"):
        metric.update(np.zeros((1, 3)), np.array([0]))


# ------------------------------------------------------------------------------------------- names and their letters
def drawn(names, tmp_path, monkeypatch):
    """(texts, families) of the row labels, and no letter that came out as a box."""
    from matplotlib.axes import Axes

    kept = []
    monkeypatch.setattr(Axes, "text", lambda axes, *arguments, **options: kept.append(axes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that is missing
        draw_png(np.eye(len(names), dtype=int), tmp_path / "matrix.png", names)
    labels = kept[0].get_yticklabels()
    return [label.get_text() for label in labels], [label.get_fontfamily()[0] for label in labels]


def test_a_name_gets_a_font_that_has_its_letters(tmp_path, monkeypatch, caplog):
    """Shown with letters that the usual font lacks and another one has; Chinese ones need a font that not all have."""
    usual = font_manager.findfont(font_manager.FontProperties())
    other = next((font, letter) for font in font_manager.fontManager.ttflist if font.style == "normal"
                 for letter in sorted(FT2Font(font.fname).get_charmap())
                 if 0x2000 < letter < 0xD800 and letter not in FT2Font(usual).get_charmap())[1]
    names = ["ant", f"x{chr(other)}", "$a$ and $b$"]
    texts, families = drawn(names, tmp_path, monkeypatch)
    assert texts == [names[0], names[1], r"\$a\$ and \$b\$"] and families[1] != families[0] == families[2]
    assert not caplog.messages


def test_a_name_that_no_font_has_is_its_number(tmp_path, monkeypatch, caplog):
    nowhere = next(chr(letter) for letter in range(0xE000, 0xF8FF) if report._font_for(chr(letter)) is None)
    texts, _ = drawn(["ant", f"{nowhere}bee", "cat"], tmp_path, monkeypatch)
    assert texts == ["ant", "1", "cat"]
    assert "numbers of 1 classes, from 0, instead of their names" in caplog.text


def test_chinese_class_names_are_never_boxes(tmp_path, monkeypatch):
    texts, _ = drawn(["\u732b", "\u72d7", "caf\udce9"], tmp_path, monkeypatch)
    assert texts[:2] in (["\u732b", "\u72d7"], ["0", "1"]) and texts[2] in ("caf\ufffd", "2")
