"""Balanced, nested subsets of a class tree: the few-label lists of semi-supervised evaluation for any data set."""
from __future__ import annotations

import os
from typing import List

import numpy as np

from passl.data.sources import find_samples
from passl.errors import DataError


def deal(labels: np.ndarray, seed: int) -> np.ndarray:
    """An order of all samples, int64 [N], whose every beginning is balanced over classes.

    Each class is shuffled; then the classes, in an order that is drawn once, give one sample in turn until they have
    none left. The first n and the first m > n of the order are therefore nested subsets, and as long as no class is
    exhausted the classes' shares differ by at most one.
    """
    generator = np.random.RandomState(seed)  # its streams are the same in every NumPy version
    classes = generator.permutation(np.unique(labels))
    turn, place = np.empty(len(labels), np.int64), np.empty(len(labels), np.int64)
    for position, label in enumerate(classes):
        own = generator.permutation(np.flatnonzero(labels == label))
        turn[own], place[own] = np.arange(len(own)), position
    return np.lexsort((place, turn))


def subset_list(root: str, percent: float, seed: int = 0) -> List[str]:
    """Lines of a FewShotDataset list with `percent` of the images of the class tree `root`.

    Bare names where every file is called `<class>_<rest>`, as in ImageNet and SimCLR's lists; else `<class>/<name>`.
    At least one image of each class. DataError for a tree without classes or a percentage outside (0, 100].
    """
    if not 0 < percent <= 100:
        raise DataError(f"percent is {percent}; it must lie above 0 and not above 100")
    samples = find_samples(root, labelled=True)
    count = max(len(samples.classes), round(len(samples) * percent / 100))
    relative = [os.path.relpath(samples.path(index), root).replace(os.sep, "/")
                for index in deal(samples.labels, seed)[:count]]
    parts = [path.split("/") for path in relative]
    if all(len(part) == 2 and part[1].startswith(part[0] + "_") and "_" not in part[0] for part in parts):
        return [name for _, name in parts]
    return relative
