"""Fast linear probe: linear classifiers on features that were extracted once, over a sweep of settings."""
from __future__ import annotations

import math
import warnings
from typing import List, NamedTuple, Sequence

import numpy as np
import paddle

from passl.arrays import to_numpy
from passl.errors import NotFinite, UserError


class ProbeAccuracy(NamedTuple):
    """One classifier: `solver` "sgd" (setting: learning rate) or "logistic" (setting: C), accuracies as fractions."""

    solver: str
    setting: float
    train_top1: float
    top1: float
    top5: float


def best(results: Sequence[ProbeAccuracy]) -> ProbeAccuracy:
    """The classifier of highest top-1, of equal ones the first; one that diverged only when all did."""
    return max(results, key=lambda result: -1.0 if math.isnan(result.top1) else result.top1)


def sgd_probe(train, train_labels, test, test_labels, *, learning_rates: Sequence[float] = (0.03, 0.1, 0.3, 1.0, 3.0),
              epochs: int = 100, batch_size: int = 256, weight_decay: float = 1e-6, momentum: float = 0.9,
              seed: int = 0) -> List[ProbeAccuracy]:
    """Train one linear classifier per learning rate by SGD, all in one pass over the features.

    The recipe of SwAV's linear evaluation (weights N(0, 0.01), momentum, cosine per epoch from the rate to 0) except
    that features are fixed: no crops, no flips. Every rate sees the same batches, which follow from `seed` alone.

    Args:
        train, test: features float [N, F], [M, F]; NumPy (a memory map will do) or Paddle.
        train_labels, test_labels: classes int [N], [M] from 0; -1 leaves the image out.
        learning_rates: for batches of `batch_size`; they are not scaled.
    Returns:
        One ProbeAccuracy per rate. A rate that diverges has accuracies of NaN, with a warning.
    Raises:
        ValueError: shapes, labels or options do not fit. FloatingPointError: a feature is not finite.
    """
    if not learning_rates or min(learning_rates) <= 0 or epochs < 1 or batch_size < 1:
        raise UserError(f"learning_rates must be positive, epochs and batch_size at least 1, got {learning_rates}, "
                        f"{epochs}, {batch_size}")
    train, train_labels, test, test_labels, classes = _check(train, train_labels, test, test_labels)
    rng = np.random.default_rng(seed)
    heads, width = len(learning_rates), train.shape[1]
    start = 0.01 * rng.standard_normal((1, width, classes))
    weight = paddle.to_tensor(np.repeat(start, heads, 0).astype(np.float32))  # [heads, F, C]
    bias = paddle.zeros([heads, 1, classes])
    velocities = [paddle.zeros_like(weight), paddle.zeros_like(bias)]
    for epoch in range(epochs):
        cosine = 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        rates = paddle.to_tensor(np.asarray(learning_rates, np.float32)[:, None, None] * cosine)
        order = rng.permutation(len(train))
        for begin in range(0, len(train), batch_size):
            rows = np.sort(order[begin:begin + batch_size])  # ascending reads; the gradient has no order
            x = paddle.to_tensor(train[rows].astype(np.float32))
            truth = paddle.nn.functional.one_hot(paddle.to_tensor(train_labels[rows]), classes)
            # The gradient of the mean cross-entropy in closed form, for all heads at once.
            error = (paddle.nn.functional.softmax(paddle.matmul(x, weight) + bias, axis=-1) - truth) / len(rows)
            gradients = [paddle.matmul(x, error, transpose_x=True), error.sum(axis=1, keepdim=True)]
            velocities = [momentum * velocity + gradient + weight_decay * parameter for velocity, gradient, parameter
                          in zip(velocities, gradients, (weight, bias))]
            weight, bias = weight - rates * velocities[0], bias - rates * velocities[1]
    diverged = paddle.logical_not(paddle.isfinite(weight)).any(axis=[1, 2]).numpy()

    def hits(features, labels):
        counts = np.zeros((heads, 2))
        for begin in range(0, len(labels), 4096):
            x = paddle.to_tensor(features[begin:begin + 4096].astype(np.float32))
            counts += _hits((paddle.matmul(x, weight) + bias).numpy(), labels[begin:begin + 4096])
        counts[diverged] = np.nan
        return counts / len(labels)

    on_train, on_test = hits(train, train_labels)[:, 0], hits(test, test_labels)
    if diverged.any():
        warnings.warn(f"the probe diverged at learning rates {np.asarray(learning_rates)[diverged].tolist()}",
                      stacklevel=2)
    return [ProbeAccuracy("sgd", float(rate), float(on_train[head]), *on_test[head].tolist())
            for head, rate in enumerate(learning_rates)]


def logistic_probe(train, train_labels, test, test_labels, *, strengths: Sequence[float] = (0.01, 0.1, 1.0, 10.0),
                   max_iterations: int = 1000) -> List[ProbeAccuracy]:
    """L2-regularised multinomial logistic regression (scikit-learn, L-BFGS) for each C of `strengths`.

    Features are standardised with the mean and deviation of the training set, so that one range of C suits any
    network. Arguments, results and errors otherwise as in `sgd_probe`; nothing is random. scikit-learn warns when
    `max_iterations` did not suffice.
    """
    from sklearn.linear_model import LogisticRegression

    if not strengths or min(strengths) <= 0:
        raise UserError(f"strengths must be positive, got {strengths}")
    train, train_labels, test, test_labels, classes = _check(train, train_labels, test, test_labels)
    mean, deviation = train.mean(0, dtype=np.float64), np.maximum(train.std(0, dtype=np.float64), 1e-12)
    train, test = ((features - mean) / deviation for features in (train, test))
    present = np.unique(train_labels)
    if len(present) < 2:
        raise UserError("the training set has images of one class only")
    results = []
    for strength in strengths:
        model = LogisticRegression(C=strength, max_iter=max_iterations).fit(train, train_labels)

        def accuracy(features, labels, model=model):
            logits = np.full((1, len(labels), classes), -np.inf)  # classes without a training image are never chosen
            logits[0][:, present] = np.log(np.maximum(model.predict_proba(features), 1e-300))
            return (_hits(logits, labels)[0] / len(labels)).tolist()

        results.append(ProbeAccuracy("logistic", float(strength), accuracy(train, train_labels)[0],
                                     *accuracy(test, test_labels)))
    return results


def table(results: Sequence[ProbeAccuracy]) -> str:
    """Markdown table of the sweep in per cent, the best row in bold."""
    lines = ["| solver | learning rate or C | train top-1 | top-1 | top-5 |", "|---|---|---|---|---|"]
    for result in results:
        cells = [result.solver, f"{result.setting:g}", *(f"{100 * value:.2f}" for value in result[2:])]
        mark = "**" if result is best(results) else ""
        lines.append("| " + " | ".join(f"{mark}{cell}{mark}" for cell in cells) + " |")
    return "\n".join(lines)


def _hits(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Numbers of top-1 and top-5 hits [heads, 2] for logits [heads, B, C]; the lower class wins a tie."""
    own = np.take_along_axis(logits, labels[None, :, None], 2)
    earlier = np.arange(logits.shape[2]) < labels[None, :, None]
    ahead = ((logits > own) | ((logits == own) & earlier)).sum(2)
    return np.stack([(ahead < k).sum(1) for k in (1, 5)], 1).astype(np.float64)


def _check(train, train_labels, test, test_labels):
    """NumPy versions of labelled rows only, and the number of classes."""
    checked = []
    for name, features, labels in (("train", train, train_labels), ("test", test, test_labels)):
        features, labels = to_numpy(features), to_numpy(labels)
        if features.ndim != 2 or features.dtype.kind != "f":
            raise UserError(f"{name} features must be float [N, F], got {features.dtype} {list(features.shape)}")
        if labels.shape != (len(features),) or labels.dtype.kind not in "iu":
            raise UserError(f"{name}_labels must be integers [{len(features)}], got {labels.dtype} "
                            f"{list(labels.shape)}")
        if not (labels >= 0).any():
            raise UserError(f"the {name} set has no labelled image")
        broken = [begin for begin in range(0, len(features), 65536)
                  if not np.isfinite(features[begin:begin + 65536]).all()]
        if broken:
            raise NotFinite(f"{name} features hold NaN or infinity, first in the rows from {broken[0]}")
        if (labels < 0).any():
            features, labels = features[labels >= 0], labels[labels >= 0]
        checked += [features, labels.astype(np.int64)]
    train, train_labels, test, test_labels = checked
    if train.shape[1] != test.shape[1]:
        raise UserError(f"train features have {train.shape[1]} columns, test features {test.shape[1]}")
    return train, train_labels, test, test_labels, int(max(train_labels.max(), test_labels.max())) + 1
