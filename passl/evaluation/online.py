"""A sign of learning during pretraining: a linear classifier that is trained along without touching it."""
from __future__ import annotations

from typing import Dict, Mapping, Optional

import numpy as np
import paddle
import paddle.nn.functional as F

from passl import distributed
from passl.errors import DataError, UserError


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
