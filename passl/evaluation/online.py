"""Signs of learning during pretraining: k-NN accuracy, and a linear classifier trained along without touching it."""
from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Callable, ContextManager, Dict, Optional, Sequence

import numpy as np
import paddle
import paddle.nn.functional as F

from passl import distributed
from passl.data import Loader
from passl.errors import DataError, UserError
from passl.evaluation.knn import knn_accuracy
from passl.inference.extract import extract_features, extract_shard

NEIGHBOURS = (10, 20, 200)
TEMPERATURE = 0.07


def trunk_of(model: paddle.nn.Layer) -> paddle.nn.Layer:
    """The layer that turns images into the features a head reads: `encoder`, wherever the model keeps it."""
    for owner in (getattr(model, "res_model", None), model):
        if owner is not None and hasattr(owner, "encoder"):
            return owner.encoder
    raise UserError(f"{type(model).__name__} has no sub-layer `encoder`, so its trunk cannot be watched")


class OnlineProbe:
    """A pretraining method with a linear classifier beside it; everything else is the method's own.

    The classifier reads the trunk's pooled features of the first crops (not of mixtures, which have no label of their
    own: `Method.image_views`), detached, as the training step computes them;
    its gradient is formed here, so the method's graph, optimizer and checkpointed weights know nothing of it. SGD with
    momentum 0.9 and a constant rate. Statistics: probe_loss, probe_top1 (of training crops, rank-local). Its state is
    part of the run's checkpoint.

    method: whose `model` has an `encoder`. labels: int64 [N] of the training set, -1 where there is none.
    learning_rate: the features move, so the rate stays constant; 0.1 serves batches from 64 to 4096.
    """

    def __init__(self, method, labels: np.ndarray, classes: int, learning_rate: float = 0.1, momentum: float = 0.9):
        if not (labels >= 0).any():
            raise DataError("Global.online_probe needs labels, and the training images have none")
        self.method = method
        self.labels = labels
        self.learning_rate, self.momentum = learning_rate, momentum
        trunk = trunk_of(method.model)
        self.weight = paddle.zeros([trunk.num_features, classes])
        self.bias = paddle.zeros([classes])
        self.velocity = paddle.zeros([trunk.num_features * classes + classes])
        self._features: Optional[paddle.Tensor] = None
        self._watching = False
        self._gradient = None
        trunk.register_forward_post_hook(self._capture)

    def __getattr__(self, name: str) -> Any:
        if name == "method":  # not yet set: while copying or unpickling
            raise AttributeError(name)
        return getattr(self.method, name)

    def _capture(self, layer, inputs, output) -> None:
        if self._watching and self._features is None:  # the first group: the large crops
            features = output.detach().astype("float32")
            self._features = features.mean(axis=[2, 3]) if features.ndim == 4 else features

    def logits(self, features: paddle.Tensor) -> paddle.Tensor:
        """Trunk features [B, F] -> class scores [B, C]."""
        return paddle.matmul(features, self.weight) + self.bias

    # ------------------------------------------------------------------------------------- what the trainer calls
    def plan(self, batches):
        self._gradient = None
        return self.method.plan(batches)

    def training_step(self, batch, plan):
        self._features, self._watching = None, True
        try:
            loss, statistics = self.method.training_step(batch, plan)
        finally:
            self._watching = False
        with paddle.no_grad(), paddle.amp.auto_cast(enable=False):
            return loss, {**statistics, **self._observe(batch["index"].numpy())}

    def _observe(self, indices: np.ndarray) -> Dict[str, paddle.Tensor]:
        """Add one micro-batch to the gradient; its loss and accuracy."""
        features = self._features.reshape([-1, len(indices), self._features.shape[1]])  # [views, B, F]
        views = self.method.image_views(features.shape[0])
        features = paddle.concat([features[view] for view in views])
        labels = paddle.to_tensor(np.tile(self.labels[indices], len(views)))
        known = (labels >= 0).astype("float32").unsqueeze(1)
        logits = self.logits(features)
        truth = F.one_hot(labels.clip(min=0), logits.shape[1])
        error = (F.softmax(logits, axis=1) - truth) * known
        count = known.sum().reshape([1])
        parts = paddle.concat([paddle.matmul(features, error, transpose_x=True).flatten(), error.sum(axis=0), count])
        self._gradient = parts if self._gradient is None else self._gradient + parts
        hits = (logits.argmax(axis=1) == labels).astype("float32").sum()
        cross_entropy = -(F.log_softmax(logits, axis=1) * truth * known).sum()
        return {"probe_loss": cross_entropy / count.sum().clip(min=1), "probe_top1": hits / count.sum().clip(min=1)}

    @paddle.no_grad()
    def after_step(self, step):
        self.method.after_step(step)
        total = distributed.all_reduce(self._gradient)  # sums over ranks, and how many images they are of
        self.velocity = self.momentum * self.velocity + total[:-1] / total[-1].clip(min=1)
        change = self.learning_rate * self.velocity
        self.weight = self.weight - change[:self.weight.size].reshape(self.weight.shape)
        self.bias = self.bias - change[self.weight.size:]

    def shared_state(self):
        own = {name: getattr(self, name).numpy() for name in ("weight", "bias", "velocity")}
        return {**self.method.shared_state(), "online_probe": own}

    def load_shared_state(self, state):
        own = state.get("online_probe", {})
        for name, value in own.items():
            setattr(self, name, paddle.to_tensor(np.asarray(value)))
        self.method.load_shared_state({name: value for name, value in state.items() if name != "online_probe"})


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
