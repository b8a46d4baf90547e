"""Nearest neighbours of every image among the others, and how far from all others an image lies."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from passl.errors import UserError
from passl.evaluation.knn import nearest_neighbours


class Neighbours(NamedTuple):
    """indices int32 [N, k]: rows of largest cosine, nearest first, a row is not its own. cosines float32 [N, k]."""

    indices: np.ndarray
    cosines: np.ndarray


def neighbours_of_each(features, k: int = 12) -> Neighbours:
    """The k nearest other rows of each row, exactly, in blocks.

    features: float [N, D], not necessarily normalised; a memory map will do. k is at most N - 1 and is made smaller
    when there are fewer rows. Equal cosines are taken in the order of the rows.
    UserError for k below 1; FloatingPointError when a feature is not finite.

    Example:
        >>> import numpy as np
        >>> neighbours_of_each(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]), k=1).indices.ravel().tolist()
        [2, 2, 0]
    """
    if k < 1:
        raise UserError(f"k is {k}; a row has at least one neighbour to look for")
    rows, k = len(features), min(k, len(features) - 1)
    found = Neighbours(np.zeros([rows, max(k, 0)], np.int32), np.zeros([rows, max(k, 0)], np.float32))
    if k < 1:
        return found
    for block, cosines, _, indices in nearest_neighbours(features, np.zeros(rows, np.int64), features, k,
                                                         leave_one_out=True):
        found.indices[block], found.cosines[block] = indices, cosines
    return found


def outlier_scores(neighbours: Neighbours) -> np.ndarray:
    """How far each image lies from those most like it: 1 - mean cosine of its neighbours, float32 [N], 0 to 2.

    The mean distance to the k nearest neighbours is the plainest outlier score and hard to beat (Campos et al. 2016,
    "On the evaluation of unsupervised outlier detection"). A near duplicate is one neighbour of several, so a strange
    picture that is there twice keeps most of its score. Zeros for a single row.
    """
    if not neighbours.cosines.shape[1]:
        return np.zeros(len(neighbours.cosines), np.float32)
    return 1 - neighbours.cosines.mean(1)
