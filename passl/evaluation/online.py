"""Signs of learning during pretraining: k-NN accuracy, and a linear classifier trained along without touching it."""
from __future__ import annotations

from contextlib import nullcontext
from typing import Callable, ContextManager, Dict, Mapping, Optional, Sequence

import numpy as np
import paddle
import paddle.nn.functional as F

from passl import distributed
from passl.data import Loader
from passl.errors import DataError, UserError
from passl.evaluation.extract import extract_features, extract_shard
from passl.evaluation.knn import knn_accuracy

NEIGHBOURS = (10, 20, 200)
TEMPERATURE = 0.07


class OnlineProbe:
    """A linear classifier that is trained beside a method, on the trunk features it is told of.

    The trainer calls `before_step`, `observe` for every micro-batch, and `after_step` unless the step is left out. The
    gradient is formed here, so the method's graph, optimizer and checkpointed weights know nothing of it. SGD with
    momentum 0.9 and a constant rate. Its state is a named part of the run's checkpoint.

    num_features: F of the trunk. labels: int64 [N] of the training set, -1 where there is none.
    learning_rate: the features move, so the rate stays constant; 0.1 serves batches from 64 to 4096.
    """

    def __init__(self, num_features: int, labels: np.ndarray, classes: int, learning_rate: float = 0.1,
                 momentum: float = 0.9):
        if not (labels >= 0).any():
            raise DataError("Global.online_probe needs labels, and the training images have none")
        self.labels = labels
        self.learning_rate, self.momentum = learning_rate, momentum
        self.weight = paddle.zeros([num_features, classes])
        self.bias = paddle.zeros([classes])
        self.velocity = paddle.zeros([num_features * classes + classes])
        self._gradient: Optional[paddle.Tensor] = None

    def logits(self, features: paddle.Tensor) -> paddle.Tensor:
        """Trunk features [B, F] -> class scores [B, C]."""
        return paddle.matmul(features, self.weight) + self.bias

    def before_step(self) -> None:
        self._gradient = None

    @paddle.no_grad()
    def observe(self, features: Optional[paddle.Tensor], indices: np.ndarray) -> Dict[str, paddle.Tensor]:
        """Add one micro-batch to the gradient; {probe_loss, probe_top1} of its crops (of this rank).

        features: `passl.methods.base.Step.features` [views, B, F]. indices: [B] of the images in the training set.
        """
        if features is None:
            raise UserError("Global.online_probe watches trunk features, and this method shows none: let its "
                            "training_step return them (passl.methods.base.Step), or set online_probe to False")
        with paddle.amp.auto_cast(enable=False):
            labels = paddle.to_tensor(np.tile(self.labels[indices], features.shape[0]))
            features = features.astype("float32").reshape([-1, features.shape[-1]])
            known = (labels >= 0).astype("float32").unsqueeze(1)
            logits = self.logits(features)
            truth = F.one_hot(labels.clip(min=0), logits.shape[1])
            error = (F.softmax(logits, axis=1) - truth) * known
            count = known.sum().reshape([1])
            parts = paddle.concat([paddle.matmul(features, error, transpose_x=True).flatten(), error.sum(axis=0),
                                   count])
            self._gradient = parts if self._gradient is None else self._gradient + parts
            hits = (logits.argmax(axis=1) == labels).astype("float32").sum()
            cross_entropy = -(F.log_softmax(logits, axis=1) * truth * known).sum()
            return {"probe_loss": cross_entropy / count.sum().clip(min=1),
                    "probe_top1": hits / count.sum().clip(min=1)}

    @paddle.no_grad()
    def after_step(self) -> None:
        total = distributed.all_reduce(self._gradient)  # sums over ranks, and how many images they are of
        self.velocity = self.momentum * self.velocity + total[:-1] / total[-1].clip(min=1)
        change = self.learning_rate * self.velocity
        self.weight = self.weight - change[:self.weight.size].reshape(self.weight.shape)
        self.bias = self.bias - change[self.weight.size:]

    def state_dict(self) -> Dict[str, np.ndarray]:
        return {name: getattr(self, name).numpy() for name in ("weight", "bias", "velocity")}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        for name, value in state.items():
            setattr(self, name, paddle.to_tensor(np.asarray(value)))


class OnlineEvaluation:
    """k-NN accuracy of the query set under a labelled bank, and the online probe's accuracy on it.

    Reports knn10, knn20, knn200 (top-1 fractions at temperature 0.07; neighbours beyond the bank are left out) and
    online_probe; "metric", by which the best checkpoint is kept, is knn20, or online_probe without a bank.
    """

    def __init__(self, queries: Loader, bank: Optional[Loader], probe: Optional[OnlineProbe], interval,
                 autocast: Callable[[], ContextManager] = nullcontext, neighbours: Sequence[int] = NEIGHBOURS):
        self.queries, self.bank, self.probe = queries, bank, probe
        self.interval, self.autocast = interval, autocast
        if bank is not None:
            self.neighbours = [k for k in neighbours if k <= len(bank.dataset)] or [len(bank.dataset)]

    def run(self, method, on_batch: Optional[Callable] = None) -> Dict[str, float]:
        """`on_batch` is told of every batch, first of the queries, then of the bank."""
        with self.autocast():
            queries, labels = extract_features(method.model, self.queries, on_batch)
            bank = extract_shard(method.model, self.bank, on_batch) if self.bank is not None else None
        results: Dict[str, float] = {}
        if self.probe is not None:
            known = labels >= 0
            chosen = self.probe.logits(paddle.to_tensor(queries[known])).argmax(axis=1).numpy()
            results["online_probe"] = results["metric"] = float((chosen == labels[known]).mean())
        if bank is not None:
            known = bank.labels >= 0
            accuracies = knn_accuracy(bank.features[known], bank.labels[known], queries, labels, ks=self.neighbours,
                                      temperatures=[TEMPERATURE], bank_indices=bank.indices[known])
            results.update({f"knn{accuracy.k}": accuracy.top1 for accuracy in accuracies})
            results["metric"] = results[f"knn{20 if 20 in self.neighbours else self.neighbours[-1]}"]
        return results

    def close(self) -> None:
        self.queries.close()
        if self.bank is not None:
            self.bank.close()
