"""A run's training data as the loop and the methods take it: the batches of an epoch, in between passes over all."""
from __future__ import annotations

import math
import time
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Mapping, Tuple

import paddle

from passl.engine.log import LOGGER
from passl.engine.progress import Progress
from passl.methods.base import Method


def on_device(host_batch: Mapping[str, Any], normalize: Callable[[paddle.Tensor], paddle.Tensor]) -> Dict[str, Any]:
    """uint8 arrays [B, S, S, 3] to normalised float tensors [B, 3, S, S]; labels and indices to int64 tensors [B].

    Keys are the loader's: `crops`, a list with one array for each crop, or `image`; `index`, `label`, `valid`.
    """
    batch: Dict[str, Any] = {}
    for key, value in host_batch.items():
        if key == "crops":
            batch[key] = [normalize(paddle.to_tensor(crop)) for crop in value]
        else:
            tensor = paddle.to_tensor(value)
            batch[key] = normalize(tensor) if key == "image" else tensor
    return batch


def split(host_batch: Mapping[str, Any], count: int) -> List[Mapping[str, Any]]:
    """A host batch cut into `count` parts of equal size, in order; the last is smaller when that does not divide it."""
    if count == 1:
        return [host_batch]
    size = math.ceil(len(host_batch["index"]) / count)
    return [{key: [crop[start:start + size] for crop in value] if key == "crops" else value[start:start + size]
             for key, value in host_batch.items()} for start in range(0, len(host_batch["index"]), size)]


class Feed:
    """What `loader` gives this rank, for `method` at the place where `progress` stands."""

    def __init__(self, loader, method: Method, progress: Progress, autocast: Callable, accumulation: int):
        self.loader, self.method, self.progress, self.autocast = loader, method, progress, autocast
        self.normalize, self.accumulation = loader.normalizer, accumulation

    def rest_of_epoch(self) -> Iterator[Tuple[float, Dict[str, Any]]]:
        """(time when the wait began, host batch) of what is left, and in between what the method wants to be told.

        A pass belongs to the step after it: a run that is resumed there makes the pass first, unless the state of the
        method tells that it is done.
        """
        progress, batches = self.progress, None
        while progress.left_in_epoch > 0:
            number = self.method.due_pass(progress.position)
            if number:
                start, batches = time.perf_counter(), None  # the pass takes the loader's workers
                with self.autocast():
                    self.method.on_pass(progress.position, partial(self._pass, number))
                LOGGER.info(f"pass over the training images before step {progress.step}: "
                            f"{time.perf_counter() - start:.1f} s")
            if progress.consumed == 0:
                with self.autocast():
                    self.method.on_epoch_start(progress.epoch)
            batches = batches or self.loader.epoch(progress.epoch, consumed=progress.consumed)
            yield time.perf_counter(), next(batches)

    def micro_batches(self, host_batch: Mapping[str, Any]) -> List[Dict[str, Any]]:
        return [on_device(part, self.normalize) for part in split(host_batch, self.accumulation)]

    def _pass(self, number: int) -> Iterator[Dict[str, Any]]:
        """All of this rank's training data as device batches: the current epoch's order, but crops of its own.

        With the epoch's own crops labels would come from the very pixels that are then trained on them. Negative
        numbers are those of no epoch.
        """
        for host_batch in self.loader.epoch(self.progress.epoch, augmentation_epoch=-number):
            yield on_device(host_batch, self.normalize)
