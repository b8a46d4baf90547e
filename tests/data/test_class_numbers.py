"""The labels of two data sets mean the same classes, or the two are refused."""
from __future__ import annotations

import os

import numpy as np
import pytest

from passl.data import class_numbers
from passl.data.class_numbers import KnownClasses, known_classes, number_alike, tell_shared_files
from passl.data.sources import ImageFiles, find_image_files
from passl.errors import DataError
from tests.data.shared import touch


def files(labels, classes=()):
    return ImageFiles([f"{row}.jpg" for row in range(len(labels))], np.array(labels), classes)


# (labels, class names) of training, the same of the test set, labels of the test set afterwards; the classes of each
# test image are, in the order of its labels, what a person would say.
@pytest.mark.parametrize("train, test, expected", [
    (([0, 1, 2], ["ant", "bee", "cat"]), ([0, 1, -1], ["bee", "cat"]), [1, 2, -1]),  # trees: by name
    (([0, 1, 2], ["1", "10", "2"]), ([1, 2, 10], []), [0, 2, 1]),  # a tree called by numbers, a list: by value
    (([0, 1, 2], ["001", "002", "010"]), ([10, 1, -1], []), [2, 0, -1]),
    (([1, 2, 10], []), ([0, 1, 2], ["1", "10", "2"]), [1, 10, 2]),  # and the other way round
    (([1, 2, 3], []), ([0, 1], ["2", "3"]), [2, 3]),
    (([0, 1, 5], []), ([5, 0], []), [5, 0]),  # two lists
    (([-1, -1], []), ([0, 1], ["ant", "bee"]), [0, 1]),  # nothing to compare with
    (([0, 1], ["ant", "bee"]), ([-1, -1], []), [-1, -1]),
])
def test_classes_are_found_by_name_and_value(train, test, expected):
    samples = files(*test)
    number_alike(samples, known_classes(files(*train), "train"), "test")
    assert samples.labels.tolist() == expected
    if train[1] and max(expected) >= 0:
        assert samples.classes == train[1]


@pytest.mark.parametrize("train, test, said", [
    (([0, 1, 2], ["ant", "bee", "cat"]), ([1, 2, 3], []), "test has the label 3, and train has the classes ant,"),
    (([1, 2, 3], []), ([0, 1, 2], ["ant", "bee", "cat"]),
     "test has 3 class folders, and train has numbers for 4 classes, and nothing tells which number is which folder"),
    (([0, 1, 2], ["1", "2", "3"]), ([0, 1, 2], []), "test has the label 0, and train has the classes 1, 2, 3"),
    (([0, 1, 2], []), ([0, 1, 2], ["1", "2", "3"]), "test has the label 3, and train has 3 classes, 0 to 2"),
    (([0, 1], []), ([0, 2], []), "test has the label 2, and train has 2 classes, 0 to 1"),
    (([0, 1], ["ant", "bee"]), ([0, 1], ["ant", "bees"]), "the class 'bees' .did you mean 'bee'.*train does not know"),
    (([0, 1, 2], []), ([0, 1], ["ant", "bee"]), "test has 2 class folders, and train has numbers for 3 classes"),
])
def test_what_cannot_be_compared_is_refused(train, test, said):
    with pytest.raises(DataError, match=said):
        number_alike(files(*test), known_classes(files(*train), "train"), "test")


@pytest.mark.parametrize("train, test", [(([0, 1, 2], ["ant", "bee", "cat"]), ([2, 0], [])),
                                         (([0, 2], []), ([0, 1, 2], ["ant", "bee", "cat"]))])
def test_the_order_of_names_is_an_assumption_that_is_said(train, test, caplog):
    samples = files(*test)
    number_alike(samples, known_classes(files(*train), "train"), "test")
    assert samples.labels.tolist() == test[0]
    assert "are taken for the sorted class names of" in caplog.text and "0 is ant, 2 is cat" in caplog.text


def test_a_classifier_whose_names_are_unknown():
    known = KnownClasses([], 3, "the classifier")
    number_alike(files([0, 2]), known, "Eval")
    with pytest.raises(DataError, match="Eval has the label 3, and the classifier has 3 classes"):
        number_alike(files([0, 3]), known, "Eval")
    with pytest.raises(DataError, match="nothing tells .* a classes.txt beside them"):
        number_alike(files([0, 1], ["ant", "bee"]), known, "Eval")


def test_files_that_two_sets_share_are_counted(tmp_path, caplog):
    touch(tmp_path, "train/ant/1.jpg", "train/ant/2.jpg", "test/ant/3.jpg")
    (tmp_path / "test/ant/linked.jpg").symlink_to(tmp_path / "train/ant/1.jpg")
    os.link(tmp_path / "train/ant/2.jpg", tmp_path / "test/ant/hard.jpg")
    train, test = (find_image_files(str(tmp_path / part), True) for part in ("train", "test"))
    assert tell_shared_files(train, test, "train", "test") == 2
    assert "2 of the 3 images of test are images of train as well" in caplog.text
    caplog.clear()
    assert tell_shared_files(test.first(1), train, "test", "train") == 0 and not caplog.text


def test_of_many_files_the_folders_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(class_numbers, "MOST_FILES_ASKED", 3)
    touch(tmp_path, "train/ant/1.jpg", "train/ant/2.jpg")
    (tmp_path / "again").symlink_to(tmp_path / "train")
    train, again = (find_image_files(str(tmp_path / part), True) for part in ("train", "again"))
    assert tell_shared_files(train, again, "train", "again") == 2
