"""FIFO of past embeddings that enlarges the batch assignments are computed on (SwAV section 4.2, small batches)."""
from __future__ import annotations

from typing import Any, Dict, List, Optional

import numpy as np
import paddle

from passl.errors import UserError


class EmbeddingQueue:
    """One queue per assignment crop, newest first; this rank's share of `total_length` embeddings.

    Embeddings are stored, not scores: scores are recomputed with the current prototypes at every use. The queue is
    used only when it has been filled once, i.e. after `local_length / batch` pushes.

    crops: number of assignment crops A. total_length: embeddings per crop over all ranks; rounded down to a multiple
    of `global_batch`, as in the reference, and refused when nothing is left. dimension: of an embedding.
    """

    def __init__(self, crops: int, total_length: int, global_batch: int, world_size: int, dimension: int,
                 dtype: str = "float32"):
        if total_length < global_batch:
            raise UserError(
                f"Model.queue_length {total_length} is shorter than one global batch ({global_batch} images), so there "
                "would be no queue: set it to 0 (no queue) or to a multiple of the global batch")
        self.total_length = total_length - total_length % global_batch
        self.local_length = self.total_length // world_size
        self.entries = paddle.zeros([crops, self.local_length, dimension], dtype)
        self.filled = 0

    @property
    def usable(self) -> bool:
        return self.filled >= self.local_length

    def push(self, embeddings: paddle.Tensor) -> None:
        """Prepend [A, n, D] embeddings of the current step and drop the oldest n."""
        count = embeddings.shape[1]
        kept = self.entries[:, :self.local_length - count]
        self.entries = paddle.concat([embeddings.detach().astype(self.entries.dtype), kept], axis=1)
        self.filled = min(self.filled + count, self.local_length)

    def state(self) -> Dict[str, Any]:
        return {"entries": self.entries.numpy(), "filled": self.filled}

    def load(self, states: List[Dict[str, Any]], rank: int, world_size: int) -> Optional[str]:
        """Restore this rank's share from the shares of all ranks of the saved run.

        The joined queue is ordered by age first, then by rank, so that re-dividing keeps the newest entries newest on
        every rank.
        """
        shares = [np.asarray(state["entries"]) for state in states]
        if len(shares) == world_size and shares[rank].shape == tuple(self.entries.shape):
            self._set(shares[rank], int(states[rank]["filled"]))
            return None
        crops, _, dimension = shares[0].shape
        if (crops, dimension) != (self.entries.shape[0], self.entries.shape[2]):
            raise UserError(f"the saved queue holds {crops} crops of {dimension} dimensions, this run has "
                            f"{self.entries.shape[0]} of {self.entries.shape[2]}")
        filled = min(int(state["filled"]) for state in states)
        by_age = np.stack([share[:, :filled] for share in shares], axis=2).reshape(crops, -1, dimension)
        mine = by_age[:, rank::world_size][:, :self.local_length]
        entries = np.zeros(self.entries.shape, mine.dtype)
        entries[:, :mine.shape[1]] = mine
        self._set(entries, mine.shape[1])
        return (f"queue re-divided: {len(shares)} ranks x {shares[0].shape[1]} entries -> "
                f"{world_size} x {self.local_length}, {mine.shape[1]} filled on each")

    def _set(self, entries: np.ndarray, filled: int) -> None:
        self.entries = paddle.to_tensor(entries, dtype=self.entries.dtype)
        self.filled = filled
