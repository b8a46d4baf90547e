"""Loss and metrics of a classifier over a labelled set, exact over ranks."""
from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Callable, ContextManager, Dict, List, Mapping, Optional, Sequence

import numpy as np
import paddle

from passl import distributed
from passl.data import Loader
from passl.inference.engine import BatchRecord, Engine
from passl.inference.forward import autocast_is_on
from passl.registry import METRICS


def build_metrics(entries: Optional[Sequence[Mapping[str, Any]]], classes: int) -> List[Any]:
    """Metrics of a Metric.Eval list; top-1 and top-5 (as far as there are classes) when there is none."""
    entries = entries or [{"TopkAcc": {"topk": [1, 5] if classes >= 5 else [1]}}]
    metrics = []
    for entry in entries:
        (name, arguments), = entry.items()
        metrics.append(METRICS.build({**(arguments or {}), "name": name}))
    return metrics


def validate(model: paddle.nn.Layer, loader: Loader, loss: Callable, metrics: Sequence[Any],
             autocast: Callable[[], ContextManager] = nullcontext,
             on_batch: Optional[Callable[[BatchRecord], None]] = None, backend: str = "auto") -> Dict[str, float]:
    """{"loss": mean over images, and what the metrics report}, equal on all ranks; the first metric gives "metric".

    Each labelled image counts once: rows that pad a batch and images that could not be read are left out. `on_batch`
    is told of every batch, with the mean loss up to it. backend: see `Engine`; mixed precision is always eager.
    """
    total = paddle.zeros([2], dtype="float64")  # summed loss, images
    values: Dict[str, Any] = {}
    for metric in metrics:
        metric.reset()

    def logits_of(images: paddle.Tensor) -> paddle.Tensor:
        with autocast():
            return model(images)

    with autocast():
        is_named = "logits" in getattr(model, "output_heads", ()) and not autocast_is_on()
    # The metrics refuse what is not finite, on all ranks alike.
    for batch in Engine(model, backend=backend).stream(loader, ("logits",) if is_named else logits_of,
                                                       on_batch=on_batch, values=values, finite=False):
        logits = batch.output["logits"] if is_named else batch.output
        labels = paddle.to_tensor(np.where(batch.valid, batch.labels, -1))
        count = (labels >= 0).astype("float64").sum()
        value = loss(logits, labels).astype("float64")
        total = total + paddle.stack([value * count, count])
        values["loss"] = total[0] / total[1].clip(min=1)
        for metric in metrics:
            metric.update(logits, labels)
    loss_sum, images = distributed.all_reduce(total).tolist()
    results = {"loss": loss_sum / max(images, 1)}
    for metric in reversed(metrics):
        results.update(metric.result())
    return results


class Validation:
    """`validate` as the trainer and passl-eval run it, for a method of `passl.methods.classify`."""

    def __init__(self, loader: Loader, loss: Callable, metrics: Sequence[Any], interval,
                 autocast: Callable[[], ContextManager] = nullcontext, backend: str = "auto"):
        self.backend = backend
        self.loader, self.loss, self.metrics = loader, loss, metrics
        self.interval, self.autocast = interval, autocast

    def run(self, method, on_batch: Optional[Callable[[BatchRecord], None]] = None) -> Dict[str, float]:
        return validate(method.model, self.loader, self.loss, self.metrics, self.autocast, on_batch, self.backend)

    def close(self) -> None:
        self.loader.close()
