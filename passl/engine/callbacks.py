"""What watches a run is told; the trainer calls all callbacks at the same moments."""
from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Dict


@dataclass
class StepRecord:
    """One optimizer step as callbacks see it. Times are seconds; `statistics` are averages over micro-batches.

    epoch and iteration count from 0 (the log prints epochs from 1, as PASSL does); step counts over the whole run.
    A step that was left out because it was not finite has no statistics, and a NaN loss when that was the reason.
    """

    epoch: int
    epochs: int
    iteration: int
    iterations: int
    step: int
    loss: float
    learning_rates: Dict[str, float]
    images: int
    step_time: float
    data_time: float
    statistics: Dict[str, Any] = field(default_factory=dict)

    @cached_property
    def values(self) -> Dict[str, float]:
        """`statistics`, which are scalars on the device, as numbers: all fetched in one wait, the first time."""
        if not self.statistics:
            return {}
        import paddle

        stacked = paddle.stack([value.astype("float32").reshape([]) for value in self.statistics.values()])
        return dict(zip(self.statistics, stacked.tolist()))


class Callback:
    """Base of everything that watches a run.

    on_every_rank: False, for what prints and writes: then only rank 0 calls it.
    """

    on_every_rank = False

    def on_train_start(self, trainer) -> None: ...

    def on_first_batch(self, batch: Dict[str, Any]) -> None: ...

    def on_step(self, record: StepRecord) -> None: ...

    def on_epoch_end(self, epoch: int, averages: Dict[str, float]) -> None: ...

    def on_evaluation_batch(self, epoch: int, record) -> None:
        """`record` is a passl.inference.engine.BatchRecord."""

    def on_metrics(self, epoch: int, step: int, metrics: Dict[str, float]) -> None: ...

    def on_train_end(self) -> None: ...
