"""Reports made of arrays, for tests of the page: no network, no files."""
import os

import numpy as np

from passl.evaluation.cluster_metrics import cluster_metrics
from passl.evaluation.neighbours import Neighbours, neighbours_of_each, outlier_scores
from passl.report.contents import Clustering, NetworkView, Report, TrainingRecord
from passl.report.thumbnails import encode

HOSTILE = [
    '<img src=x onerror="window.broken=1">.jpg', "<script>window.broken=1</script>.png",
    "</script><script>window.broken=1",
    '"><svg onload=window.broken=1>.jpg', "' onmouseover='window.broken=1' x='.jpg", "{{ 7 * 7 }}{% raw %}.jpg",
    "<!--<script>window.broken=1//-->.jpg", "a" * 4090 + ".jpg", "\u202egpj.exe\u202c.jpg", "two\nlines.jpg",
    os.fsdecode(b"not-utf-8-\xff\xfe\x80.jpg"), "$x_1$ & &amp; \\u003c.jpg", "图片 猫.jpg",
    "javascript:window.broken=1",
    "\u2028\u2029\x00\x07.jpg", "\U0001f600.jpg"]


def thumbnail(seed: int, side: int = 64) -> bytes:
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side, 0:side] / side
    slopes = generator.uniform(-120, 120, (2, 3))
    picture = 128 + rows[..., None] * slopes[0] + columns[..., None] * slopes[1]
    return encode(np.clip(picture, 0, 255).astype(np.uint8), side)


def clustering(features, name, count, temperature=0.1):
    from passl.report.collect import nearest_cluster

    centres = features[np.linspace(0, len(features) - 1, count).astype(int)] + 0.01
    centres = np.concatenate([centres, -centres[:1] * 50])  # and one that nobody is near to
    centres[-1] /= np.linalg.norm(centres[-1])
    units = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    return Clustering(name, count + 1, *nearest_cluster(features @ units.T, temperature), units)


def report(names, classes=("cats", "dogs", "<b>birds</b>"), clusters=6, networks=1, heads=1, title="pictures",
           exact=True):
    """A report of `names`; features are clouds, one for each class. exact=False takes any rows for neighbours."""
    count = len(names)
    generator = np.random.default_rng(0)
    labels = np.arange(count) % len(classes) if classes else np.full(count, -1)
    views = []
    for number in range(networks):
        centres = generator.standard_normal((max(1, len(classes)), 8))
        features = centres[labels] + 0.4 * generator.standard_normal((count, 8))
        features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
        neighbours = neighbours_of_each(features, 12) if exact else Neighbours(
            generator.integers(0, count, (count, 12)).astype(np.int32), np.full((count, 12), 0.9, np.float32))
        found = [clustering(features, f"head {head}" if heads > 1 else "prototypes", clusters + head)
                 for head in range(heads)]
        if classes:
            for one in found:
                one.metrics = cluster_metrics(one.assigned, labels)
        points = features[:, :2] / 2 + 0.5
        history = [{"step": step, "loss": 4 - step / 40, "target_entropy": 1 + step / 100, "prototypes_used": 0.5}
                   for step in range(60)]
        training = TrainingRecord(history, [{"step": 20, "eval_knn20": 0.4}, {"step": 59, "eval_knn20": 0.6}],
                                  ["the loss is on a plateau <b>at</b> ln K"], clusters)
        views.append(NetworkView(f"run {number}", found, points, neighbours, outlier_scores(neighbours),
                                 0.7 if classes else None, training if number == 0 else None))
    pool = [thumbnail(seed) for seed in range(min(count, 60))]
    return Report(title, "photos/", list(names), labels, list(classes), views, [np.array([0, 3, 5]), np.array([1, 2])],
                  [True, False], [pool[row % len(pool)] for row in range(count)], ["photos/broken<b>.jpg"],
                  {"network": 1.25, "map": 0.5})
