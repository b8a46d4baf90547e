"""Spherical k-means over all ranks, as DeepCluster-v2 clusters its memory bank once per epoch."""
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import paddle

from passl import distributed
from passl.arrays import RowBlocks, broadcast_from_first, reduce_over_ranks, to_numpy
from passl.errors import UserError


class KMeansResult(NamedTuple):
    """`centroids` [K, D] of unit norm, `labels` int64 [N] of this rank's rows, `counts` int64 [K] over all ranks."""

    centroids: Any
    labels: Any
    counts: Any


def kmeans(features, num_clusters: int | None = None, *, iterations: int = 10, initial_centroids=None, seed=0,
           block_size: int | None = None, collectives=distributed) -> KMeansResult:
    """Cluster the rows of all ranks by direction (DeepCluster-v2; SwAV paper, appendix D).

    Each iteration assigns every row to the centroid of largest dot product (the lowest index on a tie), sums rows and
    counts over all ranks in one all-reduce, and sets each centroid to the normalised mean of its rows; a cluster
    without rows (or whose rows cancel out) keeps its centroid. A last assignment follows the last update. Beyond the
    features, memory is `block_size` x K scores and K x D sums; time is linear in N x K x D.

    Args:
        features: this rank's rows [N, D], of unit norm; NumPy (a memory map will do) or Paddle, float16/32/64. Ranks
            may hold different numbers of rows, also none.
        num_clusters: K. Needed when `initial_centroids` is not given.
        iterations: number of updates; DeepCluster-v2 uses 10.
        initial_centroids: [K, D] to start from; rank 0's are used by all ranks. By default K distinct rows of rank 0,
            drawn with `seed` (an int or a numpy Generator), as in the original.
        block_size: rows that are compared with the centroids at a time; by default as many as fit the cache.
        collectives: offers rank, all_reduce and broadcast; `passl.distributed` unless given.
    Returns:
        KMeansResult, of the kind of array that came in.
    Raises:
        ValueError: shapes do not fit, or rank 0 has fewer rows than clusters to draw.
        FloatingPointError: a row on any rank is not finite (raised on all ranks).
    Example:
        >>> import numpy as np
        >>> from passl.clustering import kmeans
        >>> features = np.array([[1.0, 0.0], [0.96, 0.28], [0.0, 1.0], [0.28, 0.96]])
        >>> centroids, labels, counts = kmeans(features, initial_centroids=features[[0, 2]])
        >>> labels.tolist(), counts.tolist()
        ([0, 0, 1, 1], [2, 2])
        >>> centroids.round(2).tolist()
        [[0.99, 0.14], [0.14, 0.99]]
    """
    if initial_centroids is not None:
        initial_shape = [int(size) for size in initial_centroids.shape]
        if len(initial_shape) != 2 or num_clusters not in (None, initial_shape[0]):
            raise UserError(f"initial_centroids must be [{num_clusters or 'K'}, D], got {initial_shape}")
        num_clusters = initial_shape[0]
    if num_clusters is None or num_clusters < 1:
        raise UserError(f"num_clusters must be at least 1, got {num_clusters}")
    if iterations < 0:
        raise UserError(f"iterations must not be negative, got {iterations}")
    blocks = RowBlocks(features, "features", num_clusters, block_size)
    if initial_centroids is not None and initial_shape[1] != blocks.columns:
        raise UserError(f"initial_centroids have {initial_shape[1]} columns, features {blocks.columns}")
    blocks.check_finite(collectives)
    if initial_centroids is None:
        centroids = _draw_rows(blocks, num_clusters, seed, collectives)
    else:
        centroids = to_numpy(initial_centroids)
    centroids = broadcast_from_first(_normalize(centroids.astype(np.float64)), collectives)

    for _ in range(iterations):
        totals = np.zeros((num_clusters, blocks.columns + 1))  # the last column counts
        for _, block, scores in blocks.products(centroids.T):
            _add_by_label(totals, block, scores.argmax(1))
        totals = reduce_over_ranks(totals, "sum", collectives)
        means = _normalize(totals[:, :-1] / np.maximum(totals[:, -1:], 1))
        moved = means.any(1, keepdims=True)
        centroids = np.where(moved, means, centroids)

    labels = np.empty(blocks.rows, np.int64)
    for rows, _, scores in blocks.products(centroids.T):
        labels[rows] = to_numpy(scores.argmax(1))
    counts = np.bincount(labels, minlength=num_clusters).astype(np.int64)
    counts = reduce_over_ranks(counts, "sum", collectives)
    return KMeansResult(blocks.output(centroids.astype(blocks.dtype)), blocks.output(labels), blocks.output(counts))


def _draw_rows(blocks: RowBlocks, num_clusters: int, seed, collectives) -> np.ndarray:
    """`num_clusters` distinct rows of rank 0; zeros on the other ranks, which receive them by broadcast."""
    available = int(broadcast_from_first(np.array([blocks.rows], np.int64), collectives)[0])
    if available < num_clusters:
        raise UserError(f"cannot draw {num_clusters} initial centroids from the {available} rows of rank 0: "
                        "use fewer clusters, more images per rank, or pass initial_centroids")
    if collectives.rank() != 0:
        return np.zeros((num_clusters, blocks.columns))
    chosen = np.random.default_rng(seed).choice(available, num_clusters, replace=False)
    if blocks.is_tensor:
        return paddle.index_select(blocks.array, paddle.to_tensor(chosen, place=blocks.array.place)).astype(
            blocks.dtype).numpy()
    return np.asarray(blocks.array[chosen], blocks.dtype)


def _normalize(rows: np.ndarray) -> np.ndarray:
    """Rows divided by their L2 norm; rows of (numerically) no length become zero."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(norms > 1e-12, rows / np.maximum(norms, 1e-12), 0.0)


def _add_by_label(totals: np.ndarray, block, labels) -> None:
    """Add each row of `block`, followed by a 1, to the row of `totals` that its label names."""
    if isinstance(block, paddle.Tensor):
        # A product with the one-hot labels: as many operations as the assignment, and reproducible, which the atomic
        # additions of a scatter on an accelerator are not.
        one_hot = paddle.nn.functional.one_hot(labels, totals.shape[0]).astype(block.dtype)
        totals[:, :-1] += paddle.matmul(one_hot, block, transpose_x=True).numpy()
        totals[:, -1] += one_hot.sum(0).numpy()
        return
    order = np.argsort(labels, kind="stable")
    sorted_labels = labels[order]
    starts = np.flatnonzero(np.diff(sorted_labels, prepend=-1))
    present = sorted_labels[starts]
    totals[present, :-1] += np.add.reduceat(block[order], starts, axis=0, dtype=np.float64)
    totals[present, -1] += np.diff(starts, append=len(labels))
