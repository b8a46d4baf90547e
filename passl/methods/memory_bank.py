"""Embeddings of an epoch by sample index, and the tables of labels that clustering the whole data set makes of them.

DeepCluster-v2, SeLa-v2 (SwAV paper, appendix D) and SeLa use both.
"""
from __future__ import annotations

from typing import Any, Dict, List, Optional

import numpy as np
import paddle

from passl import distributed
from passl.errors import UserError
from passl.findings import Finding, warning

FEW_IMAGES = 5  # fewer for a cluster are worth a warning; ImageNet has 427


def check_fillable(largest: int, images: int) -> None:
    """Refuse `largest`, the most clusters of a head, when an epoch shows fewer images."""
    if largest > images:
        raise UserError(f"the {images} images of an epoch cannot fill {largest} clusters: lower "
                        "Model.backbone.nmb_prototypes (about 10 per expected class), e.g. to "
                        f"{max(2, images // 50)}")


def sparse_clusters(largest: int, images: int) -> List[Finding]:
    """A warning when `largest`, the most clusters of a head, leaves few of the `images` for each."""
    if images >= FEW_IMAGES * largest:
        return []
    return [warning(f"Model.backbone.nmb_prototypes {largest} leaves {images / largest:.1f} of the {images} training "
                    "images for a cluster, so that labels say little but which image it is",
                    f"about 10 clusters per expected class are usual, e.g. {max(2, images // 50)}")]


def labels_of_checkpoint(saved: np.ndarray, labels: paddle.Tensor) -> np.ndarray:
    """`saved`, integers [T heads, N images], when it is a table of as many as this run's `labels`; else UserError."""
    saved = np.asarray(saved)
    if saved.shape != tuple(labels.shape):
        raise UserError(f"the checkpoint labels {saved.shape[1]} images for {saved.shape[0]} heads, this run has "
                        f"{labels.shape[1]} and {labels.shape[0]}: resume with the data it was started with, or start "
                        "a new run from its weights with Global.pretrained_model")
    return saved


class MemoryBank:
    """This rank's embeddings of one epoch, for each of A assignment crops, with the sample each row came from.

    Rows of an epoch replace those of the epoch before when its first ones arrive, so that between epochs the bank
    holds a whole epoch. Rows need no order and no fixed owner: everything computed from them is joined over the ranks
    and keyed by sample index.

    crops: A. rows: images of an epoch on this rank (the bank grows when more come, after a change of the number of
    ranks within an epoch). dimension: of an embedding.
    """

    def __init__(self, crops: int, rows: int, dimension: int, dtype: str = "float32"):
        self._embeddings = paddle.zeros([crops, rows, dimension], dtype)
        self._indices = np.zeros(rows, np.int64)
        self.filled = 0
        self._stale = False

    @property
    def indices(self) -> np.ndarray:
        """Sample index of every row, int64 [n]; an image may occur twice (the sampler pads short epochs)."""
        return self._indices[:self.filled]

    def embeddings(self, crop: int) -> paddle.Tensor:
        """Rows of the assignment crop at position `crop`, [n, D]."""
        return self._embeddings[crop, :self.filled]

    def start_epoch(self) -> None:
        """Let the next rows replace all present ones."""
        self._stale = True

    def push(self, embeddings: paddle.Tensor, indices: np.ndarray) -> None:
        """Add [A, n, D] embeddings of samples `indices` [n]."""
        start = 0 if self._stale else self.filled
        stop = start + embeddings.shape[1]
        missing = stop - self._embeddings.shape[1]
        if missing > 0:
            room = paddle.zeros([self._embeddings.shape[0], missing, self._embeddings.shape[2]], self._embeddings.dtype)
            self._embeddings = paddle.concat([self._embeddings, room], axis=1)
            self._indices = np.concatenate([self._indices, np.zeros(missing, np.int64)])
        self._embeddings[:, start:stop] = embeddings.detach().astype(self._embeddings.dtype)
        self._indices[start:stop] = indices
        self.filled, self._stale = stop, False

    def draw(self, crop: int, count: int, dataset_size: int, entropy: List[int]) -> paddle.Tensor:
        """`count` rows [count, D] of different images, drawn over all ranks; equal on every rank.

        The draw goes by sample index, so the same images are drawn however many ranks share them. (The original draws
        among the rows of rank 0.) Collectives: two, of N and of count * (D + 1) numbers. ValueError when the bank
        holds fewer images.
        """
        seen = np.zeros(dataset_size, np.int32)
        seen[self.indices] = 1
        seen = distributed.all_reduce(paddle.to_tensor(seen), "max").numpy()
        order = np.random.default_rng(entropy).permutation(dataset_size)
        chosen = order[seen[order] > 0][:count]
        if len(chosen) < count:
            raise UserError(f"cannot draw {count} initial centroids from the {len(chosen)} images of the memory bank: "
                            "use fewer prototypes (Model.backbone.nmb_prototypes) or more images")
        position = np.full(dataset_size, -1, np.int64)
        position[self.indices] = np.arange(self.filled)
        held = position[chosen]
        here = np.flatnonzero(held >= 0)
        rows = np.zeros([count, self._embeddings.shape[2] + 1], str(self._embeddings.dtype).replace("paddle.", ""))
        if len(here):
            rows[here, :-1] = paddle.index_select(self.embeddings(crop), paddle.to_tensor(held[here])).numpy()
            rows[here, -1] = 1
        rows = distributed.all_reduce(paddle.to_tensor(rows))
        return rows[:, :-1] / rows[:, -1:]  # an image that pads the epoch is on two ranks

    def state(self) -> Dict[str, Any]:
        return {"embeddings": self._embeddings[:, :self.filled].numpy(), "indices": self.indices.copy(),
                "stale": self._stale}

    def load(self, states: List[Dict[str, Any]], rank: int, world_size: int) -> Optional[str]:
        """Restore this rank's rows from the rows of all ranks of the saved run, dealt out anew when ranks changed."""
        if len(states) == world_size:
            self._set(states[rank]["embeddings"], states[rank]["indices"], states[rank]["stale"])
            return None
        joined = np.concatenate([state["embeddings"] for state in states], axis=1)[:, rank::world_size]
        indices = np.concatenate([state["indices"] for state in states])
        self._set(joined, indices[rank::world_size], states[0]["stale"])
        return (f"memory bank re-divided: {len(indices)} images of {len(states)} ranks -> {self.filled} on this one "
                f"of {world_size}")

    def _set(self, embeddings, indices, stale: bool) -> None:
        embeddings = np.asarray(embeddings)
        crops, rows, dimension = embeddings.shape
        if (crops, dimension) != (self._embeddings.shape[0], self._embeddings.shape[2]):
            raise UserError(f"the saved memory bank holds {crops} crops of {dimension} dimensions, this run has "
                            f"{self._embeddings.shape[0]} of {self._embeddings.shape[2]}")
        self.filled, self._stale = 0, False
        if rows:
            self.push(paddle.to_tensor(embeddings), np.asarray(indices))
        self._stale = bool(stale)
