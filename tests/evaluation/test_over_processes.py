"""Real ranks: k-NN over a shared bank and metrics over a shared evaluation set equal one process's."""
import numpy as np
import pytest

from passl.distributed import rank
from passl.evaluation.knn import knn_accuracy
from passl.evaluation.metrics import ConfusionMatrix, TopkAcc
from tests.distributed.ranks import run_ranks

SHARES = (slice(0, 26), slice(26, 37))


def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((37, 6)).astype(np.float32), rng.integers(0, 6, 37)


def evaluate(share):
    features, labels = data()
    neighbours = knn_accuracy(features[share], labels[share], features, labels, ks=(1, 5), leave_one_out=True)
    accuracy, confusion = TopkAcc([1, 3]), ConfusionMatrix()
    for metric in (accuracy, confusion):
        metric.update(features[share], labels[share])
    return {"knn": np.array(neighbours), "top": np.array(list(accuracy.result().values())),
            "confusion": confusion.matrix()}


def evaluate_own_share():
    return evaluate(SHARES[rank()])


@pytest.mark.dist
def test_two_ranks_give_what_one_process_gives(tmp_path):
    expected = evaluate(slice(None))
    for run in run_ranks(evaluate_own_share, 2, tmp_path):
        for name, value in expected.items():
            assert run.result[name].tolist() == value.tolist(), name
