"""What watches a run is told; the trainer calls all callbacks at the same moments, on rank 0 only."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict


@dataclass
class StepRecord:
    """One optimizer step as callbacks see it. Times are seconds; `statistics` are averages over micro-batches.

    epoch and iteration count from 0 (the log prints epochs from 1, as PASSL does); step counts over the whole run.
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


class Callback:
    """Base of everything that watches a run; statistics of a record are device tensors until `float` is called."""

    def on_train_start(self, trainer) -> None: ...

    def on_first_batch(self, batch: Dict[str, Any]) -> None: ...

    def on_step(self, record: StepRecord) -> None: ...

    def on_epoch_end(self, epoch: int, averages: Dict[str, float]) -> None: ...

    def on_metrics(self, epoch: int, step: int, metrics: Dict[str, float]) -> None: ...

    def on_train_end(self) -> None: ...
