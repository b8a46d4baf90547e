"""Real ranks: what two processes compute together is what one computes on the joined rows."""
import numpy as np
import pytest

from passl.clustering.balanced_labels import balanced_labels
from passl.clustering.kmeans import kmeans
from passl.distributed import rank
from tests.distributed.ranks import run_ranks

SHARES = (slice(0, 30), slice(30, 41))


def features():
    x = np.random.default_rng(0).standard_normal((41, 6))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def cluster():
    x = features()[SHARES[rank()]]
    clusters = kmeans(x, 5, seed=3)  # drawn from the rows of rank 0
    given = kmeans(x, initial_centroids=x[:4])  # only those of rank 0 count
    balanced = balanced_labels(x, exponent=5, soft=True)
    return {"labels": clusters.labels, "centroids": clusters.centroids, "counts": clusters.counts,
            "given": given.labels, "assignments": balanced.assignments, "iterations": balanced.iterations}


@pytest.mark.dist
def test_two_ranks_give_what_one_process_gives(tmp_path):
    x = features()
    drawn = kmeans(x[SHARES[0]], 5, seed=3, iterations=0).centroids
    expected, given = kmeans(x, initial_centroids=drawn), kmeans(x, initial_centroids=x[:4])
    balanced = balanced_labels(x, exponent=5, soft=True)
    runs = [run.result for run in run_ranks(cluster, 2, tmp_path)]
    assert np.concatenate([run["labels"] for run in runs]).tolist() == expected.labels.tolist()
    assert np.concatenate([run["given"] for run in runs]).tolist() == given.labels.tolist()
    np.testing.assert_allclose(np.concatenate([run["assignments"] for run in runs]), balanced.assignments, atol=1e-12)
    for run in runs:
        np.testing.assert_allclose(run["centroids"], expected.centroids, atol=1e-14)
        assert run["counts"].tolist() == expected.counts.tolist()
        assert run["iterations"] == balanced.iterations
