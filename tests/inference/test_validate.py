"""Validation: each image once, on one rank or two, whatever the batches."""
import logging

import numpy as np
import paddle
import pytest

from passl import distributed
from passl.inference.labelled_data import evaluation_loader
from passl.inference.validate import build_metrics, validate
from passl.methods.classify import CELoss
from tests.distributed.ranks import run_ranks
from tests.inference.test_extract import FlatPixels, expected, section, write_images

CLASSES = 3


def classifier():
    model = paddle.nn.Sequential(FlatPixels(), paddle.nn.Linear(8 * 8 * 3, CLASSES))
    weight = np.random.RandomState(0).normal(0, 0.1, [8 * 8 * 3, CLASSES]).astype(np.float32)
    model[1].weight.set_value(weight)
    model[1].bias.set_value(np.zeros(CLASSES, np.float32))
    return model, weight


def results(root, batch_size):
    model, _ = classifier()
    metrics = build_metrics([{"TopkAcc": {"topk": [1, 2]}}, {"ConfusionMatrix": None}], CLASSES)
    values = validate(model, evaluation_loader(section(root, batch_size=batch_size)), CELoss(), metrics)
    return {**values, "matrix": metrics[1].matrix(), "rank": distributed.rank()}


def truth(root):
    pixels, labels = expected(root)
    _, weight = classifier()
    logits = pixels @ weight
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    order = np.argsort(-logits, 1)
    matrix = np.zeros([CLASSES, CLASSES], int)
    np.add.at(matrix, (labels, order[:, 0]), 1)
    return {"loss": -log_p[np.arange(len(labels)), labels].mean(), "top1": (order[:, 0] == labels).mean(),
            "top2": (order[:, :2] == labels[:, None]).any(1).mean()}, matrix


def check(values, root):
    expectations, matrix = truth(root)
    for name, value in expectations.items():
        assert float(values[name]) == pytest.approx(value, rel=1e-5), name
    assert float(values["metric"]) == float(values["top1"])
    np.testing.assert_array_equal(values["matrix"], matrix)


@pytest.fixture
def root(tmp_path):
    return write_images(tmp_path / "data", counts=(4, 3, 4))


@pytest.mark.parametrize("batch_size", [1, 3, 4, 11, 20])  # 3 is also the number of classes, 4 leaves a short batch
def test_values_do_not_depend_on_the_batch_size(root, batch_size):
    check(results(str(root), batch_size), root)


@pytest.mark.dist
def test_two_ranks_count_what_one_counts(tmp_path, root):
    for run in run_ranks(results, 2, tmp_path, root=str(root), batch_size=4):  # 11 images: a padded, short last batch
        check(run.result, root)


def test_unreadable_images_do_not_count(root, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("passl"), "propagate", True)  # a run of another test may have ended it
    (root / "a" / "0.png").write_bytes(b"")
    model, _ = classifier()
    loader = evaluation_loader(section(root, image_errors="skip"))
    metric, = build_metrics([{"ConfusionMatrix": {}}], CLASSES)
    validate(model, loader, CELoss(), [metric])
    assert any("0.png" in message for message in caplog.messages)
    assert metric.matrix().sum() == 10


def test_dropping_and_shuffling_are_overruled(root):
    spec = section(root, batch_size=4, shuffle=True)
    spec["sampler"]["drop_last"] = True
    assert len(evaluation_loader(spec)) == 3


@pytest.mark.parametrize("classes, ks", [(3, [1]), (5, [1, 5])])
def test_default_metric(classes, ks):
    metric, = build_metrics(None, classes)
    assert metric.topk == ks
