import math

import numpy as np
import paddle
import pytest

from passl.evaluation.linear import ProbeAccuracy, best, logistic_probe, sgd_probe, table


def clouds(rows, seed, classes=6, columns=8, noise=0.8):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    centres = np.random.default_rng(7).standard_normal((classes, columns))
    return (centres[labels] + noise * rng.standard_normal((rows, columns))).astype(np.float32), labels


TRAIN, TEST = clouds(300, 0), clouds(200, 1)


def test_sgd_equals_a_layer_trained_by_paddles_optimizer():
    """Rebuilds the sweep's first and last head with Linear, cross-entropy and Momentum on the same batches."""
    epochs, batch_size, rates = 3, 64, (0.05, 0.5)
    found = sgd_probe(*TRAIN, *TEST, learning_rates=rates, epochs=epochs, batch_size=batch_size, weight_decay=1e-2,
                      seed=5)
    for rate, result in zip(rates, found):
        rng = np.random.default_rng(5)
        layer = paddle.nn.Linear(8, 6)
        layer.weight.set_value((0.01 * rng.standard_normal((1, 8, 6)))[0].astype(np.float32))
        layer.bias.set_value(np.zeros(6, np.float32))
        optimizer = paddle.optimizer.Momentum(rate, 0.9, parameters=layer.parameters(), weight_decay=1e-2)
        for epoch in range(epochs):
            optimizer.set_lr(rate * 0.5 * (1 + math.cos(math.pi * epoch / epochs)))
            order = rng.permutation(300)
            for begin in range(0, 300, batch_size):
                rows = order[begin:begin + batch_size]
                loss = paddle.nn.functional.cross_entropy(layer(paddle.to_tensor(TRAIN[0][rows])),
                                                          paddle.to_tensor(TRAIN[1][rows]))
                loss.backward()
                optimizer.step()
                optimizer.clear_grad()
        predicted = layer(paddle.to_tensor(TEST[0])).numpy().argmax(1)
        assert result.top1 == pytest.approx((predicted == TEST[1]).mean(), abs=0.006)  # one image may round
        assert result.solver == "sgd" and result.setting == rate


def test_sgd_is_deterministic_in_the_seed_and_learns():
    def run(seed): return sgd_probe(*TRAIN, *TEST, learning_rates=(0.001, 0.3), epochs=5, seed=seed)  # noqa: E731
    assert run(1) == run(1)
    assert run(1) != run(2)
    assert best(run(1)).top1 > 0.7 and all(row.top5 >= row.top1 for row in run(1))


def test_logistic_equals_scikit_learn_on_standardised_features():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    for result in logistic_probe(*TRAIN, *TEST, strengths=(0.001, 1.0)):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=result.setting, max_iter=1000))
        model.fit(TRAIN[0].astype(np.float64), TRAIN[1])
        assert result.top1 == pytest.approx(model.score(TEST[0], TEST[1]), abs=0.006)
        assert result.train_top1 == pytest.approx(model.score(*TRAIN), abs=0.006)


def test_unlabelled_images_and_classes_without_training_images():
    train_labels, test_labels = TRAIN[1].copy(), TEST[1].copy()
    train_labels[train_labels == 5] = -1
    found, = logistic_probe(TRAIN[0], train_labels, TEST[0], test_labels, strengths=[1.0])
    assert found.top1 <= (test_labels != 5).mean()
    kept = train_labels >= 0
    for probe in (lambda *data: sgd_probe(*data, learning_rates=[0.3], epochs=2),
                  lambda *data: logistic_probe(*data, strengths=[1.0])):
        assert probe(TRAIN[0], train_labels, *TEST) == probe(TRAIN[0][kept], train_labels[kept], *TEST)


def test_divergence_is_told_and_never_best():
    with pytest.warns(UserWarning, match=r"diverged at learning rates \[1e\+38\]"):
        results = sgd_probe(*TRAIN, *TEST, learning_rates=(0.1, 1e38), epochs=3)
    assert math.isnan(results[1].top1) and best(results) is results[0]
    assert best(results[::-1]) is results[0]


def test_table_marks_the_best():
    rows = [ProbeAccuracy("sgd", 0.1, 0.9, 0.5, 0.75), ProbeAccuracy("logistic", 1.0, 0.8, 0.625, 1.0)]
    assert table(rows).splitlines()[2:] == [
        "| sgd | 0.1 | 90.00 | 50.00 | 75.00 |",
        "| **logistic** | **1** | **80.00** | **62.50** | **100.00** |",
    ]


@pytest.mark.parametrize("probe", [sgd_probe, logistic_probe])
@pytest.mark.parametrize("position, value, error, message", [
    (0, np.full((300, 8), np.nan), FloatingPointError, "train features hold NaN"),
    (0, np.zeros((300, 8), int), ValueError, "train features must be float"),
    (1, TRAIN[1][:-1], ValueError, r"train_labels must be integers \[300\]"),
    (2, np.zeros((200, 5)), ValueError, "8 columns, test features 5"),
    (3, np.full(200, -1), ValueError, "test set has no labelled image"),
])
def test_wrong_data(probe, position, value, error, message):
    data = [*TRAIN, *TEST]
    data[position] = value
    with pytest.raises(error, match=message):
        probe(*data)


def test_wrong_options():
    with pytest.raises(ValueError, match="learning_rates must be positive"):
        sgd_probe(*TRAIN, *TEST, learning_rates=[0])
    with pytest.raises(ValueError, match="strengths must be positive"):
        logistic_probe(*TRAIN, *TEST, strengths=[])
    with pytest.raises(ValueError, match="one class only"):
        logistic_probe(TRAIN[0], np.zeros(300, int), *TEST)
