from itertools import permutations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passl.evaluation.cluster_metrics import cluster_metrics, contingency


def test_values_by_hand():
    # clusters 5, 7, 9 against classes 0, 1: [[3, 0], [1, 2], [0, 2]]
    assignments = np.array([5, 5, 5, 7, 7, 7, 9, 9])
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert contingency(assignments, labels).tolist() == [[3, 0], [1, 2], [0, 2]]
    found = cluster_metrics(assignments, labels)
    assert (found["images"], found["clusters"], found["classes"]) == (8, 3, 2)
    assert found["hungarian_accuracy"] == 5 / 8  # one cluster stays without a class
    assert found["majority_accuracy"] == 7 / 8
    assert found["mean_cluster_purity"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    entropy_labels, entropy_clusters = np.log(2), -(2 * 3 / 8 * np.log(3 / 8) + 2 / 8 * np.log(2 / 8))
    mutual = sum(n / 8 * np.log(n / 8 / (a / 8 * 0.5)) for n, a in ((3, 3), (1, 3), (2, 3), (2, 2)))
    assert found["nmi"] == pytest.approx(mutual / ((entropy_labels + entropy_clusters) / 2))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5), st.integers(1, 40))
def test_hungarian_is_the_best_matching_and_names_do_not_matter(seed, clusters, classes, images):
    rng = np.random.default_rng(seed)
    assignments, labels = rng.integers(0, clusters, images), rng.integers(0, classes, images)
    table = contingency(assignments, labels)
    square = np.zeros((5, 5), int)
    square[:table.shape[0], :table.shape[1]] = table
    best = max(sum(square[row, column] for row, column in enumerate(order)) for order in permutations(range(5)))
    found = cluster_metrics(assignments, labels)
    assert found["hungarian_accuracy"] == pytest.approx(best / images)
    assert found["hungarian_accuracy"] <= found["majority_accuracy"] + 1e-12
    renamed = cluster_metrics((rng.permutation(clusters) + 100)[assignments], labels)
    assert renamed == pytest.approx(found, abs=1e-9)


def test_perfect_and_random_clusterings():
    labels = np.repeat(np.arange(20), 250)
    perfect = cluster_metrics(19 - labels, labels)
    assert all(perfect[name] == pytest.approx(1) for name in (
        "nmi", "ami", "ari", "hungarian_accuracy", "majority_accuracy", "mean_cluster_purity"))
    random = cluster_metrics(np.random.default_rng(0).permutation(np.arange(5000) % 60), labels)
    assert abs(random["ami"]) < 0.005 and abs(random["ari"]) < 0.005
    # chance: the expected information of independent partitions, (K - 1)(C - 1) / 2N, over their mean entropy
    assert random["nmi"] == pytest.approx(59 * 19 / 10000 / (np.log(60 * 20) / 2), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("clusters, chance", [(1000, 0.438), (3000, 0.551)])
def test_chance_level_on_imagenets_validation_set(clusters, chance):
    labels = np.repeat(np.arange(1000), 50)
    found = cluster_metrics(np.random.default_rng(0).permutation(np.arange(50000) % clusters), labels)
    assert found["nmi"] == pytest.approx(chance, abs=0.001) and abs(found["ami"]) < 0.002


def test_tensors_and_unlabelled_images():
    found = cluster_metrics(paddle.to_tensor([0, 0, 1, 1]), paddle.to_tensor([4, 4, -1, 2]))
    assert found["images"] == 3 and found["hungarian_accuracy"] == 1


@pytest.mark.parametrize("assignments, labels, message", [
    (np.zeros(0, int), np.zeros(0, int), "no image has a label"),
    (np.zeros(2, int), np.array([-1, -1]), "no image has a label"),
    (np.array([0, -1]), np.array([0, 0]), "1 images have no cluster"),
    (np.zeros(3, int), np.zeros(2, int), "3 assignments for 2 labels"),
    (np.array([0.0, np.nan]), np.zeros(2, int), "assignments must be integers"),
    (np.zeros(2, int), np.zeros((2, 1), int), "labels must be integers"),
])
def test_errors(assignments, labels, message):
    with pytest.raises(ValueError, match=message):
        cluster_metrics(assignments, labels)
