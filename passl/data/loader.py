"""From the `DataLoader.Train` or `DataLoader.Eval` section of a config to an iterator of host batches."""
from __future__ import annotations

import itertools
import logging
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional

import numpy as np

from passl.data.batch import BatchLayout, Normalizer
from passl.errors import DataError
from passl.registry import DATASETS, SAMPLERS, nearest

LOGGER = logging.getLogger("passl")
_LOADER_KEYS = ("num_workers", "prefetch_batches")


def build_loader(section: Mapping, *, seed: int, rank: int = 0, world_size: int = 1,
                 batch_size_divisor: int = 1) -> "Loader":
    """Build dataset, sampler and loader from a config section with the keys dataset, sampler and loader.

    `batch_size_divisor` (gradient accumulation steps) must divide the batch size. `loader` may hold num_workers
    (default 0: load in this process) and prefetch_batches (default 2). Raises DataError with the remedy for anything
    that would fail later: missing data, an epoch of zero iterations, an indivisible batch.
    """
    options = dict(section.get("loader") or {})
    for key in options:
        if key not in _LOADER_KEYS:
            raise DataError(f"unknown key loader.{key}{nearest(key, _LOADER_KEYS)}; known: {', '.join(_LOADER_KEYS)}")
    dataset = DATASETS.build(section["dataset"], seed=seed)
    sampler_section = dict(section.get("sampler") or {"name": "DistributedBatchSampler", "batch_size": 1})
    sampler = SAMPLERS.build(sampler_section, size=len(dataset), seed=seed, rank=rank, world_size=world_size)
    if sampler.batch_size % batch_size_divisor:
        raise DataError(f"sampler.batch_size {sampler.batch_size} is not divisible by {batch_size_divisor} "
                        "accumulation steps (Global.accum_steps)")
    return Loader(dataset, sampler, num_workers=options.get("num_workers", 0),
                  prefetch_batches=options.get("prefetch_batches", 2))


class Loader:
    """Batches of one dataset: `for batch in loader.epoch(3): ...`.

    A batch is a dict of contiguous NumPy arrays owned by the caller:
    {"crops": [uint8 [B, S, S, 3], ...], "index": int64 [B]} or
    {"image": uint8 [B, H, W, 3], "label": int64 [B], "index": int64 [B], "valid": bool [B]}.
    `valid` is false for rows that only pad the last batch of a rank or replace an unreadable file: metrics leave them
    out, and all ranks still run the same number of equal batches.

    num_workers: processes that decode and augment; about one per CPU core of this rank. 0 loads in this process.
    prefetch_batches: batches prepared ahead; more smooths uneven files at the cost of memory.
    """

    def __init__(self, dataset, sampler, num_workers: int = 0, prefetch_batches: int = 2):
        if num_workers < 0 or prefetch_batches < 1:
            raise DataError(f"loader: num_workers {num_workers} must be at least 0 and prefetch_batches "
                            f"{prefetch_batches} at least 1")
        self.dataset, self.sampler = dataset, sampler
        self.num_workers, self.prefetch_batches = num_workers, prefetch_batches
        self.skipped: Dict[str, str] = {}
        self._layout: Optional[BatchLayout] = None
        self._pool: Any = None  # of `workers`, which only a loader with workers imports

    def __len__(self) -> int:
        return len(self.sampler)

    @property
    def batch_size(self) -> int:
        return self.sampler.batch_size

    @property
    def global_batch_size(self) -> int:
        return self.sampler.global_batch_size

    @property
    def normalizer(self) -> Normalizer:
        """For use on the device, with the dataset's mean and std."""
        return Normalizer(*self.dataset.normalization)

    def epoch(self, epoch: int, start_iteration: int = 0, consumed: Optional[int] = None,
              augmentation_epoch: Optional[int] = None) -> Iterator[Dict]:
        """Batches of one epoch from `start_iteration` on, the same whatever came before in this process.

        `consumed` (samples used by all ranks so far) replaces `start_iteration` when the world size has changed.
        `augmentation_epoch` (any integer) takes the images in the order of `epoch` with the crops of another epoch; a
        negative one gives crops that no epoch of training shows.
        """
        batches = self.sampler.epoch(epoch, start_iteration, consumed)
        first = next(batches, None)
        if first is None:
            return
        shown = epoch if augmentation_epoch is None else augmentation_epoch
        if self._layout is None:
            self._layout = BatchLayout(self.dataset[shown, int(first[0][0])])
        batches, ahead = itertools.tee(itertools.chain([first], batches))  # apart by what the workers have in hand
        fill = self._with_workers if self.num_workers else self._in_process
        for (indices, padding), arrays in zip(batches, fill(self._layout, shown, (indices for indices, _ in ahead))):
            self._note_skipped()
            batch = self._layout.as_batch(arrays, len(indices), copy=self.num_workers > 0)
            if not self._layout.is_multi_crop:
                batch["valid"] = ~padding & (batch["index"] == indices)
            yield batch

    def _in_process(self, layout: BatchLayout, epoch: int, batches: Iterable[np.ndarray]) -> Iterator[List[np.ndarray]]:
        for indices in batches:
            arrays = layout.arrays(bytearray(layout.size(len(indices))), len(indices))
            for row, index in enumerate(indices.tolist()):
                layout.store(arrays, row, self.dataset[epoch, index], self.dataset.samples.name(index))
            yield arrays

    def _with_workers(self, layout: BatchLayout, epoch: int, batches: Iterable[np.ndarray]
                      ) -> Iterator[List[np.ndarray]]:
        from passl.data.workers import WorkerPool

        if self._pool is None:
            self._pool = WorkerPool(self.dataset, layout, self.batch_size, self.num_workers, self.prefetch_batches)
        return self._pool.run(epoch, batches)

    def _note_skipped(self) -> None:
        for path, reason in self.dataset.skipped.items():
            if path not in self.skipped:
                self.skipped[path] = reason
                # As an error: ranks other than the first speak of nothing less.
                LOGGER.error(f"skipped {reason} (bad file {len(self.skipped)} so far)")
        self.dataset.skipped.clear()

    def close(self) -> None:
        """End the worker processes; they also end with this process."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
