"""From networks and a folder of images to the contents of a report."""
from __future__ import annotations

import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from passl.clustering.kmeans import kmeans
from passl.errors import UserError
from passl.evaluation.cluster_metrics import cluster_metrics
from passl.evaluation.duplicates import near_duplicates
from passl.evaluation.knn import knn_accuracy
from passl.evaluation.neighbours import neighbours_of_each, outlier_scores
from passl.evaluation.plane import plane_map
from passl.files import PathLike
from passl.inference.assign import trained_settings
from passl.inference.card import card_of
from passl.inference.engine import Engine, Model
from passl.inference.images import find_images
from passl.report.contents import Clustering, NetworkView, Report
from passl.report.run_record import read_training
from passl.report.thumbnails import read_pictures

NEIGHBOURS = 12
VOTERS = 20  # of the k-NN accuracy
# The page knows it in Chinese, too.
KMEANS = "These weights have no trained prototypes: the clusters are made by k-means of the features."


def collect_report(models: Sequence[Model], images: Any, *, map_method: str = "tsne", thumbnail_side: int = 96,
                   batch_size: int = 64, workers: Optional[int] = None,
                   on_stage: Callable[[str], None] = lambda text: None, engine: str = "auto") -> Report:
    """Look at images with one or more networks.

    models: networks, or what `Engine` takes for one. images: a folder, list file, or list of paths. Files that cannot
    be read are left out and named in `Report.unreadable`. A network without trained prototypes gets clusters by k-means
    of its features. on_stage: is told what begins.
    workers, and engine for `backend`: see `Engine`.
    UserError when no image can be read.
    """
    samples = find_images(images)
    seconds: Dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        on_stage(name)
        begin = time.perf_counter()
        yield
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begin

    engines = [Engine(model, batch_size, workers, skip_unreadable=True, backend=engine) for model in models]
    names = [model if isinstance(model, (str, os.PathLike)) else card_of(model).name for model in models]
    outputs: List[Tuple[np.ndarray, np.ndarray, List[Clustering]]] = []
    with stage("network"):
        for looking in engines:
            outputs.append(_look(looking, samples))
    rows = outputs[0][0]
    if not len(rows):
        raise UserError(f"none of the {len(samples)} images can be read")
    with stage("pictures"):
        pictures = read_pictures(samples, rows.tolist(), thumbnail_side)
    labels = samples.labels[rows]
    views = []
    for name, (_, features, clusterings) in zip(_short_names(names), outputs):
        with stage("neighbours"):
            neighbours = neighbours_of_each(features, NEIGHBOURS)
        with stage("map"):
            points = plane_map(features, map_method)
        views.append(NetworkView(name, clusterings, points, neighbours, outlier_scores(neighbours)))
        if (labels >= 0).any():
            with stage("classes"):
                _compare_with_classes(views[-1], features, labels)
    for view, model in zip(views, models):
        if isinstance(model, (str, os.PathLike)) and os.path.exists(model):
            view.training = read_training(os.fspath(model))
            if view.training is not None:
                view.training.prototypes = view.clusterings[0].count
    with stage("duplicates"):
        duplicates = near_duplicates(pictures.compared).groups(len(rows))
        identical = [len({pictures.digests[row] for row in group}) == 1 for group in duplicates]
    root, relative = _relative([samples.path(int(row)) for row in rows])
    unreadable = [samples.path(row) for row in np.setdiff1d(np.arange(len(samples)), rows)]
    return Report(_title(images), root, relative, labels, list(samples.classes), views, duplicates, identical,
                  pictures.thumbnails, unreadable, seconds)


def _look(engine: Engine, samples) -> Tuple[np.ndarray, np.ndarray, List[Clustering]]:
    """(rows that can be read, features float32 [n, F], clusterings) of one network; scores are not kept."""
    network = engine.network
    card = card_of(network)
    sizes = list(getattr(network, "head_sizes", ())) if card.has_prototypes else []
    temperature = trained_settings(network)["temperature"] if sizes else 1.0
    rows, features = [], []
    parts: List[List[Tuple[np.ndarray, ...]]] = [[] for _ in sizes]
    for batch in engine.stream(samples, ("features", "scores") if sizes else ("features",)):
        keep = np.flatnonzero(batch.valid)
        rows.append(batch.start + keep)
        features.append(batch.array("features")[keep])
        if sizes:
            heads = np.split(batch.array("scores")[keep], np.cumsum(sizes)[:-1], axis=1)
            for part, scores in zip(parts, heads):
                part.append(nearest_cluster(scores, temperature))
    found = np.concatenate(features)
    clusterings = []
    for number, (size, part) in enumerate(zip(sizes, parts)):
        centres = network.score_heads()[number].weight.numpy().T
        assigned, score, margin, confidence = (np.concatenate(values) for values in zip(*part))
        clusterings.append(Clustering("prototypes" if len(sizes) == 1 else f"head {number}", size, assigned, score,
                                      margin, confidence, centres))
    if not clusterings and len(found):
        clusterings.append(_by_kmeans(found))
    return np.concatenate(rows), found, clusterings


def nearest_cluster(scores: np.ndarray, temperature: float) -> Tuple[np.ndarray, ...]:
    """From scores float [N, K]: cluster int64, its score, margin of probability to the next, and probability, [N]."""
    if not len(scores):
        return np.zeros(0, np.int64), *np.zeros([3, 0], np.float32)
    shifted = (scores - scores.max(1, keepdims=True)).astype(np.float64) / temperature
    probabilities = np.exp(shifted)
    probabilities /= probabilities.sum(1, keepdims=True)
    best = scores.argmax(1)
    each = np.arange(len(scores))
    confidence = probabilities[each, best].astype(np.float32)
    probabilities[each, best] = -1
    second = probabilities.max(1).clip(0, None)  # none when there is one cluster
    return best, scores[each, best].astype(np.float32), (confidence - second).astype(np.float32), confidence


def _by_kmeans(features: np.ndarray) -> Clustering:
    """As many clusters as the square root of the number of images, at most a hundred."""
    units = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    count = max(1, min(100, round(len(units) ** 0.5)))
    centres = np.asarray(kmeans(units, count, iterations=20).centroids)
    assigned, score, margin, confidence = nearest_cluster(units @ centres.T, 0.1)
    return Clustering("k-means", count, assigned, score, margin, confidence, centres, note=KMEANS)


def _compare_with_classes(view: NetworkView, features: np.ndarray, labels: np.ndarray) -> None:
    for clustering in view.clusterings:
        clustering.metrics = cluster_metrics(clustering.assigned, labels)
    known = np.flatnonzero(labels >= 0)
    if len(known) > 1:
        (result,) = knn_accuracy(features[known], labels[known], leave_one_out=True, ks=(min(VOTERS, len(known) - 1),),
                                 temperatures=(0.07,))
        view.knn = result.top1


def _relative(paths: List[str]) -> Tuple[str, List[str]]:
    """(their common folder with a slash at its end, paths below it)."""
    common = os.path.commonprefix([os.path.dirname(path) + "/" for path in paths])
    root = common[:common.rfind("/") + 1]
    return root, [path[len(root):] for path in paths]


def _short_names(models: Sequence[PathLike]) -> List[str]:
    """The last parts of paths, as many as tell them apart."""
    parts = [[part for part in Path(os.fspath(model)).parts if part not in ("/", ".")] for model in models]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}. {name}" for number, name in enumerate(names, 1)]


def _title(images: Any) -> str:
    if isinstance(images, (str, os.PathLike)):
        return Path(os.path.abspath(images)).name
    return ""
