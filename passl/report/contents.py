"""What a report page shows, as plain data: whoever has clusters of images can fill it in and hand it to `page`."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Optional, Sequence

import numpy as np

from passl.evaluation.cluster_summary import ClusterSummary, summarise_clusters
from passl.evaluation.neighbours import Neighbours


@dataclass
class Clustering:
    """One way to divide N images into `count` clusters; a prototype head, or groups made of one.

    name: as the page calls it. assigned int [N]. score float [N]: to the own cluster, larger is nearer. margin float
    [N]: how much more probable the own cluster is than the next. confidence float [N]: probability of the own cluster.
    centres: float [count, D] that clusters lie around, None when there are none; neighbours of clusters come from them.
    metrics: agreement with classes (`cluster_metrics`), {} without. note: what a reader has to know.
    """

    name: str
    count: int
    assigned: np.ndarray
    score: np.ndarray
    margin: np.ndarray
    confidence: np.ndarray
    centres: Optional[np.ndarray] = None
    metrics: Dict[str, float] = field(default_factory=dict)
    note: str = ""

    def summaries(self, labels: Optional[np.ndarray], pictures: int = 12) -> List[ClusterSummary]:
        return summarise_clusters(self.assigned, self.score, self.margin, self.confidence, self.count, labels, pictures)


@dataclass
class TrainingRecord:
    """How a run went. history: records of its steps. evaluations: records of its evaluations. warnings: what its watch
    has said. prototypes: K of the first head, 0 when unknown."""

    history: List[Dict[str, float]]
    evaluations: List[Dict[str, float]]
    warnings: List[str]
    prototypes: int = 0


@dataclass
class NetworkView:
    """The images as one network sees them.

    points float [N, 2] in 0..1. outliers float [N]: larger is stranger. knn: leave-one-out accuracy, None without
    classes. training: None when the weights are not those of a run with records.
    """

    name: str
    clusterings: List[Clustering]
    points: np.ndarray
    neighbours: Neighbours
    outliers: np.ndarray
    knn: Optional[float] = None
    training: Optional[TrainingRecord] = None


@dataclass
class Report:
    """Everything on a page, over N images in one order.

    title: in the heading. root: folder that `names` are relative to, "" when they are whole paths. labels int [N], -1
    for none; classes: their names. duplicates: rows that show the same, sets of at least two. identical: for each set
    whether its files are equal byte by byte. thumbnails: N encoded pictures (WebP), b"" for none.
    unreadable: paths that are left out. seconds: of each stage.
    """

    title: str
    root: str
    names: Sequence[str]
    labels: np.ndarray
    classes: Sequence[str]
    networks: List[NetworkView]
    duplicates: List[np.ndarray] = field(default_factory=list)
    identical: List[bool] = field(default_factory=list)
    thumbnails: Sequence[bytes] = ()
    unreadable: Sequence[str] = ()
    seconds: Dict[str, float] = field(default_factory=dict)

    @property
    def known_labels(self) -> Optional[np.ndarray]:
        """`labels`, or None when no image has a class."""
        return self.labels if len(self.labels) and (self.labels >= 0).any() else None
