"""Weighted cosine k-nearest-neighbour classification of frozen features, exact and in bounded memory."""
from __future__ import annotations

import warnings
from typing import List, NamedTuple, Sequence

import numpy as np
import paddle

from passl import distributed
from passl.arrays import RowBlocks, reduce_over_ranks, to_numpy
from passl.errors import UserError


class KNNAccuracy(NamedTuple):
    """Fractions of queries whose class is first (`top1`) or among the first five (`top5`) for one k and temperature."""

    k: int
    temperature: float
    top1: float
    top5: float


def knn_accuracy(bank, bank_labels, queries=None, query_labels=None, *, ks: Sequence[int] = (10, 20, 200),
                 temperatures: Sequence[float] = (0.07, 0.1), leave_one_out: bool = False, bank_indices=None,
                 query_block: int = 1024, bank_block: int = 16384, collectives=distributed) -> List[KNNAccuracy]:
    """Classify queries by their k nearest bank features, each voting with exp(cosine / temperature) (InstDisc, 3.4).

    All combinations of `ks` and `temperatures` are evaluated in one pass over the bank. Neighbours of equal similarity
    are taken in the order of the bank, classes of equal vote in the order of their numbers; a class without a vote is
    never a hit. Memory is `query_block` x (`bank_block` + classes) numbers beyond the features.

    Args:
        bank: this rank's share of the bank [N, D], float; rows need not be normalised. Shares may differ in size.
        bank_labels: int [N], classes from 0.
        queries: [Q, D], the same on every rank; default with leave_one_out in one process: the bank.
        query_labels: int [Q]; queries labelled -1 are left out of the accuracies.
        ks: numbers of neighbours; one that exceeds the bank takes the whole bank, with a warning.
        temperatures: small ones let the nearest neighbours decide; 0.07 and 0.1 are customary.
        leave_one_out: query i is the bank row of index i, which is not its own neighbour.
        bank_indices: int [N], position of each bank row in the whole bank; by default the shares follow each other in
            rank order. Give it when ranks hold interleaved shares.
        collectives: offers rank, all_reduce and all_gather; `passl.distributed` unless given.
    Returns:
        One KNNAccuracy for each k (outer) and temperature (inner), equal on all ranks.
    Raises:
        ValueError: shapes or labels do not fit, nothing to classify.
        FloatingPointError: a feature is not finite.
    """
    if queries is None and leave_one_out:
        queries, query_labels = bank, bank_labels
    if queries is None or query_labels is None:
        raise UserError("queries and query_labels are needed unless leave_one_out is set")
    if not ks or min(ks) < 1 or not temperatures or not min(temperatures) > 0:
        raise UserError(f"ks must be at least 1 and temperatures positive, got ks={ks}, temperatures={temperatures}")
    bank_labels = _labels(bank_labels, int(bank.shape[0]), "bank", lowest=0)
    query_labels = _labels(query_labels, int(queries.shape[0]), "query", lowest=-1)
    judged = query_labels >= 0
    if not judged.any():
        raise UserError("no query has a label: nothing to classify")

    bank_size = int(reduce_over_ranks(np.array([len(bank_labels)]), "sum", collectives)[0])
    available = bank_size - leave_one_out
    if available < 1:
        raise UserError(f"a bank of {bank_size} rows leaves no neighbour to vote")
    if leave_one_out and bank_size != len(query_labels):
        raise UserError(f"leave_one_out needs one query per bank row, got {len(query_labels)} queries and "
                        f"{bank_size} bank rows over all ranks")
    if max(ks) > available:
        warnings.warn(f"k = {[k for k in ks if k > available]} exceeds the {available} neighbours there are; "
                      "the whole bank votes", stacklevel=2)
    highest = reduce_over_ranks(np.array([bank_labels.max(initial=0)]), "max", collectives)[0]
    num_classes = int(max(highest, query_labels.max())) + 1

    settings = [(k, temperature) for k in ks for temperature in temperatures]
    hits = np.zeros((len(settings), 2), np.int64)
    neighbours = nearest_neighbours(bank, bank_labels, queries, min(max(ks), available), leave_one_out=leave_one_out,
                                    bank_indices=bank_indices, query_block=query_block, bank_block=bank_block,
                                    collectives=collectives)
    for rows, similarities, labels, _ in neighbours:
        keep = judged[rows]
        for setting, (k, temperature) in enumerate(settings):
            position = _position_of_truth(similarities[keep, :k], labels[keep, :k], query_labels[rows][keep],
                                          temperature, num_classes)
            hits[setting] += (position < 1).sum(), (position < 5).sum()
    return [KNNAccuracy(k, temperature, *(hits[setting] / judged.sum()).tolist())
            for setting, (k, temperature) in enumerate(settings)]


def nearest_neighbours(bank, bank_labels, queries, k: int, *, leave_one_out: bool = False, bank_indices=None,
                       query_block: int = 1024, bank_block: int = 16384, collectives=distributed):
    """Yield, for blocks of queries, the k bank rows of largest cosine over all ranks, nearest first.

    Arguments as in `knn_accuracy`. Yields (slice of queries, cosines float64 [q, k], labels int64 [q, k], bank indices
    int64 [q, k]); with fewer than k rows in the bank the last columns are -inf, -1, -1. All ranks must exhaust it.
    """
    bank_blocks = RowBlocks(bank, "bank", block_size=bank_block)
    query_blocks = RowBlocks(queries, "queries", block_size=query_block)
    if bank_blocks.columns != query_blocks.columns:
        raise UserError(f"bank features have {bank_blocks.columns} columns, queries {query_blocks.columns}")
    if bank_indices is None:
        counts = collectives.all_gather(paddle.to_tensor(np.array([bank_blocks.rows]))).numpy().ravel()
        bank_indices = counts[:collectives.rank()].sum() + np.arange(bank_blocks.rows)
    bank_indices = np.asarray(bank_indices, np.int64)
    if bank_indices.shape != (bank_blocks.rows,):
        raise UserError(f"bank_indices must be [{bank_blocks.rows}], got {list(bank_indices.shape)}")
    bank_blocks.check_finite(collectives)
    query_blocks.check_finite(collectives)

    # Where each bank index is stored here, to strike a query's own row out.
    order = np.argsort(bank_indices, kind="stable")
    for rows, query in query_blocks:
        query = _unit_rows(query)
        own = np.full(rows.stop - rows.start, -1)
        if leave_one_out and len(order):
            wanted = np.arange(rows.start, rows.stop)
            found = order[np.minimum(np.searchsorted(bank_indices[order], wanted), len(order) - 1)]
            own = np.where(bank_indices[found] == wanted, found, -1)
        best = _Best(rows.stop - rows.start, k)
        for bank_rows, block in bank_blocks:
            similarities = query @ _unit_rows(block.astype(query.dtype)).T
            mine = np.flatnonzero((own >= bank_rows.start) & (own < bank_rows.stop))
            if len(mine):
                similarities[_index(mine, similarities), _index(own[mine] - bank_rows.start, similarities)] = -np.inf
            best.offer(similarities, bank_labels[bank_rows], bank_indices[bank_rows])
        packed = collectives.all_gather(paddle.to_tensor(np.stack(best.padded()))).numpy()  # [ranks, 3, q, k]
        best = _Best(rows.stop - rows.start, k)
        for values, labels, indices in packed:
            filled = np.nonzero(values > -np.inf)
            best.add(filled[0], values[filled], labels[filled], indices[filled])
        values, labels, indices = best.padded()
        yield rows, values, labels.astype(np.int64), indices.astype(np.int64)


class _Best:
    """The k best candidates of each query so far, as flat arrays sorted by (query, similarity descending, index)."""

    def __init__(self, queries: int, k: int):
        self.queries, self.k = queries, k
        self.row = np.empty(0, np.int64)
        self.value, self.label, self.index = np.empty(0), np.empty(0), np.empty(0)
        self.threshold = np.full(queries, -np.inf)  # the k-th similarity, once k are there

    def offer(self, similarities, labels, indices) -> None:
        """Consider a block of similarities [queries, b]; only entries that can be among the k best are moved."""
        if similarities.shape[1] > self.k and np.isneginf(self.threshold).any():
            if isinstance(similarities, paddle.Tensor):
                kth = paddle.topk(similarities, self.k, axis=1)[0][:, -1].numpy()
            else:
                kth = np.partition(similarities, -self.k, axis=1)[:, -self.k]
            self.threshold = np.maximum(self.threshold, kth)
        if isinstance(similarities, paddle.Tensor):
            threshold = paddle.to_tensor(self.threshold, dtype=similarities.dtype)
            row, column = paddle.nonzero(similarities >= threshold[:, None]).numpy().reshape(-1, 2).T
            value = similarities[_index(row, similarities), _index(column, similarities)].numpy() if len(row) else []
        else:
            row, column = np.nonzero(similarities >= self.threshold[:, None].astype(similarities.dtype))
            value = similarities[row, column]
        if len(row):
            self.add(row, value, labels[column], indices[column])

    def add(self, row, value, label, index) -> None:
        row = np.concatenate([self.row, row])
        value, label, index = (np.concatenate(pair) for pair in (
            (self.value, value), (self.label, label), (self.index, index)))
        order = np.lexsort((index, -value, row))
        row = row[order]
        starts = np.searchsorted(row, np.arange(self.queries))
        place = np.arange(len(row)) - starts[row]
        kept = (place < self.k) & (value[order] > -np.inf)
        order = order[kept]
        self.row, self.value, self.label, self.index = row[kept], value[order], label[order], index[order]
        last = place[kept] == self.k - 1
        self.threshold[self.row[last]] = self.value[last]

    def padded(self):
        """Similarities, labels and indices, float64 [queries, k] each."""
        place = np.arange(len(self.row)) - np.searchsorted(self.row, np.arange(self.queries))[self.row]
        outputs = []
        for values, empty in ((self.value, -np.inf), (self.label, -1), (self.index, -1)):
            output = np.full((self.queries, self.k), empty, np.float64)
            output[self.row, place] = values
            outputs.append(output)
        return outputs


def _position_of_truth(similarities, labels, truth, temperature, num_classes) -> np.ndarray:
    """Number of classes [q] that beat the true one; `num_classes` where the true class got no vote."""
    queries = np.arange(len(truth))
    votes = np.exp((similarities - similarities[:, :1]) / temperature)  # a common factor decides nothing
    flat = (queries[:, None] * num_classes + np.maximum(labels, 0)).ravel()
    scores = np.bincount(flat, votes.ravel(), len(truth) * num_classes).reshape(-1, num_classes)
    own = scores[queries, truth][:, None]
    ahead = (scores > own).sum(1) + ((scores == own) & (np.arange(num_classes) < truth[:, None])).sum(1)
    return np.where(own[:, 0] > 0, ahead, num_classes + 5)


def _unit_rows(block):
    """Rows of a NumPy or Paddle block divided by their norm; zero rows stay zero."""
    return block / ((block * block).sum(1)**0.5).clip(1e-12, None)[:, None]


def _index(positions: np.ndarray, like):
    return paddle.to_tensor(positions) if isinstance(like, paddle.Tensor) else positions


def _labels(values, rows: int, name: str, lowest: int) -> np.ndarray:
    values = to_numpy(values)
    if values.shape != (rows,) or values.dtype.kind not in "iu":
        raise UserError(f"{name}_labels must be integers [{rows}], got {values.dtype} {list(values.shape)}")
    if rows and values.min() < lowest:
        raise UserError(f"{name}_labels must be at least {lowest}, got {values.min()}")
    return values.astype(np.int64)
