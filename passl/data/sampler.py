"""Which sample goes to which rank and batch."""
from __future__ import annotations

from typing import Iterator, Optional, Tuple

import numpy as np

from passl.data.random_streams import permutation
from passl.errors import DataError
from passl.registry import SAMPLERS

_SHUFFLE_STREAM = 0x5A3F  # keeps the order of samples apart from the draws of any sample


@SAMPLERS.register("DistributedBatchSampler", context=("size", "seed", "rank", "world_size"))
class DistributedBatchSampler:
    """Batches of one rank; all ranks get the same number of batches of the same sizes.

    An epoch's order is shuffled from (seed, epoch) alone. It is padded with its own first samples to a multiple of
    `world_size`, then rank r takes entries r, r + world_size, ...; with `drop_last` an incomplete last batch is
    dropped. This is the rule of torch's DistributedSampler, so iteration counts equal the original's. Iteration t of
    all ranks together uses entries [t * batch_size * world_size, (t+1) * batch_size * world_size) of the order. The
    position in an epoch is therefore one number, the samples consumed by all ranks, and a run continues from it on
    any world size.

    Parameters
    ----------
    batch_size: images per rank and iteration.
    shuffle: draw a new order every epoch; off for evaluation.
    drop_last: drop an incomplete last batch; on for pretraining, where assignments are made per batch.
    """

    def __init__(self, size: int, batch_size: int, shuffle: bool = False, drop_last: bool = False, *, seed: int = 0,
                 rank: int = 0, world_size: int = 1):
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; it must be at least 1 (images per process)")
        if not 0 <= rank < world_size:
            raise DataError(f"rank {rank} is outside 0 .. {world_size - 1}")
        self.size, self.batch_size, self.shuffle, self.drop_last = size, batch_size, shuffle, drop_last
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.global_batch_size = batch_size * world_size
        if len(self) == 0:
            raise DataError(
                f"{size} images make no whole batch: batch_size {batch_size} x {world_size} process(es) = "
                f"{self.global_batch_size} with drop_last, so an epoch would have zero iterations; lower "
                f"sampler.batch_size to at most {size // world_size}, use fewer processes, or add images")

    def iterations(self, consumed: int = 0) -> int:
        """Iterations left in an epoch of which `consumed` samples (of all ranks) are used."""
        per_rank = -(-max(self.size - consumed, 0) // self.world_size)
        return per_rank // self.batch_size if self.drop_last else -(-per_rank // self.batch_size)

    def __len__(self) -> int:
        return self.iterations()

    def order(self, epoch: int) -> np.ndarray:
        """Sample indices of one epoch in global order, int64 [size]."""
        if self.shuffle:
            return permutation(self.size, self.seed, epoch, _SHUFFLE_STREAM)
        return np.arange(self.size, dtype=np.int64)

    def epoch(self, epoch: int, start_iteration: int = 0, consumed: Optional[int] = None
              ) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
        """Yield (indices int64 [B], padded bool [B]) of each batch; padded is true for entries that only pad.

        `start_iteration` skips whole iterations of this world size; `consumed` (samples of all ranks, from a run with
        another world size) takes its place when given.
        """
        if consumed is None:
            consumed = start_iteration * self.global_batch_size
        order = self.order(epoch)
        rest = order[consumed:]
        padding = -len(rest) % self.world_size
        entries = np.concatenate([rest, np.resize(order, padding)])
        is_padding = np.arange(len(entries)) >= len(rest)
        own, own_padding = entries[self.rank::self.world_size], is_padding[self.rank::self.world_size]
        for start in range(0, self.iterations(consumed) * self.batch_size, self.batch_size):
            yield own[start:start + self.batch_size], own_padding[start:start + self.batch_size]


@SAMPLERS.register("BatchSampler", context=("size", "seed"))
class BatchSampler(DistributedBatchSampler):
    """Every rank sees the whole dataset in the same order, so training on several processes refuses it; otherwise as
    DistributedBatchSampler."""

    def __init__(self, size: int, batch_size: int, shuffle: bool = False, drop_last: bool = False, *, seed: int = 0):
        super().__init__(size, batch_size, shuffle, drop_last, seed=seed)
