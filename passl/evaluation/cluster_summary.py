"""What is in each cluster: how many images, how sure, of which classes, and pictures that stand for it."""
from __future__ import annotations

from typing import List, NamedTuple, Optional

import numpy as np

from passl.errors import UserError

GIANT = 5.0  # times the even share of the clusters that are used


class ClusterSummary(NamedTuple):
    """One cluster; lists are rows of images.

    nearest: of the largest score, best first. border: of the smallest margin to another cluster, least sure first.
    random: drawn by the seed. purity, label: share and number of its most frequent class, None and -1 without classes.
    mark: "empty", "giant" (more than GIANT times the even share, and a tenth of all images) or "".
    """

    size: int
    confidence: float
    purity: Optional[float]
    label: int
    mark: str
    nearest: List[int]
    border: List[int]
    random: List[int]


def summarise_clusters(assigned: np.ndarray, score: np.ndarray, margin: np.ndarray, confidence: np.ndarray, count: int,
                       labels: Optional[np.ndarray] = None, pictures: int = 12, seed: int = 0) -> List[ClusterSummary]:
    """A summary of each of `count` clusters, the empty ones too.

    assigned int [N]: cluster of each image. score float [N]: to its cluster. margin float [N]: how much more probable
    its cluster is than the next. confidence float [N]: probability of its cluster. labels int [N], -1 for none.
    Equal values are taken in the order of the rows. `pictures`: of each kind.
    """
    assigned = np.asarray(assigned)
    if len(assigned) and not 0 <= assigned.min() <= assigned.max() < count:
        raise UserError(f"clusters are 0 to {count - 1}, found {assigned.min()} to {assigned.max()}")
    members = np.split(np.argsort(assigned, kind="stable"), np.cumsum(np.bincount(assigned, minlength=count))[:-1])
    used = sum(len(rows) > 0 for rows in members)
    least = max(GIANT * len(assigned) / max(1, used), len(assigned) / 10)
    generator = np.random.default_rng(seed)
    summaries = []
    for rows in members:
        purity, label = None, -1
        known = labels[rows][labels[rows] >= 0] if labels is not None else np.zeros(0, np.int64)
        if len(known):
            counts = np.bincount(known)
            label, purity = int(counts.argmax()), float(counts.max() / len(known))
        summaries.append(ClusterSummary(
            len(rows), float(confidence[rows].mean()) if len(rows) else 0.0, purity, label,
            "" if 0 < len(rows) <= least else "giant" if len(rows) else "empty",
            rows[np.argsort(-score[rows], kind="stable")][:pictures].tolist(),
            rows[np.argsort(margin[rows], kind="stable")][:pictures].tolist(),
            generator.permutation(rows)[:pictures].tolist()))
    return summaries
