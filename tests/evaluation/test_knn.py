import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passl import arrays as blocks
from passl.evaluation.knn import knn_accuracy, nearest_neighbours
from tests.simulated_ranks import run_ranks


def clouds(rows, classes=4, columns=6, seed=0):
    """Overlapping classes, so that the settings give different accuracies."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    centres = np.random.default_rng(99).standard_normal((classes, columns))
    return centres[labels] + 1.2 * rng.standard_normal((rows, columns)), labels


def brute_force(bank, bank_labels, queries, query_labels, k, temperature, leave_one_out=False):
    hits = np.zeros(2)
    judged = 0
    for i, (query, label) in enumerate(zip(queries, query_labels)):
        if label < 0:
            continue
        judged += 1
        cosines = [float(b @ query / np.linalg.norm(b) / np.linalg.norm(query)) for b in bank]
        order = sorted((j for j in range(len(bank)) if not (leave_one_out and j == i)), key=lambda j: (-cosines[j], j))
        votes = {}
        for j in order[:k]:
            votes[bank_labels[j]] = votes.get(bank_labels[j], 0) + np.exp(cosines[j] / temperature)
        ranking = sorted(votes, key=lambda c: (-votes[c], c))
        hits += label in ranking[:1], label in ranking[:5]
    return (hits / judged).tolist()


@pytest.fixture(params=["host", "accelerator"])
def path(request, monkeypatch):
    """Both code paths: NumPy, and the Paddle one that accelerators take."""
    if request.param == "accelerator":
        monkeypatch.setattr(blocks, "uses_accelerator", lambda array: True)
    return request.param


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_equals_brute_force(leave_one_out, path):
    bank, bank_labels = clouds(90, classes=9)
    queries, query_labels = (bank, bank_labels) if leave_one_out else clouds(40, classes=9, seed=1)
    found = knn_accuracy(bank, bank_labels, queries, query_labels, ks=(1, 7, 30), temperatures=(0.07, 1.0),
                         leave_one_out=leave_one_out, query_block=16, bank_block=37)
    assert [(row.k, row.temperature) for row in found] == [(1, .07), (1, 1.), (7, .07), (7, 1.), (30, .07), (30, 1.)]
    for row in found:
        expected = brute_force(bank, bank_labels, queries, query_labels, row.k, row.temperature, leave_one_out)
        assert [row.top1, row.top5] == pytest.approx(expected)
    assert len({row.top1 for row in found}) > 2
    if leave_one_out:
        assert found == knn_accuracy(bank, bank_labels, ks=(1, 7, 30), temperatures=(0.07, 1.0), leave_one_out=True)


@pytest.mark.parametrize("k, temperature", [(5, 0.07), (20, 0.5)])
def test_equals_scikit_learn(k, temperature):
    from sklearn.neighbors import KNeighborsClassifier

    bank, bank_labels = clouds(300)
    queries, query_labels = clouds(200, seed=1)
    classifier = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1 - d) / temperature))
    expected = classifier.fit(bank, bank_labels).score(queries, query_labels)
    found, = knn_accuracy(bank, bank_labels, queries, query_labels, ks=[k], temperatures=[temperature])
    assert found.top1 == pytest.approx(expected) and 0.3 < found.top1 < 0.95


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 60), st.integers(1, 30))
def test_blocks_change_nothing_even_with_ties(seed, query_block, bank_block, k):
    rng = np.random.default_rng(seed)
    bank = rng.integers(-1, 2, (50, 3)).astype(np.float64)  # many equal directions, and zero rows
    labels, queries = rng.integers(0, 5, 50), rng.integers(-1, 2, (20, 3)).astype(np.float64)
    cosines = [[round(float(b @ q) / max(np.linalg.norm(b) * np.linalg.norm(q), 1e-12), 12) for b in bank]
               for q in queries]
    expected = np.array([sorted(range(50), key=lambda j: (-row[j], j))[:k] for row in cosines])
    found = np.concatenate([similarities for _, similarities, _, _ in nearest_neighbours(
        bank, labels, queries, k, query_block=query_block, bank_block=bank_block)])
    np.testing.assert_allclose(found, np.take_along_axis(np.array(cosines), expected, 1), atol=1e-9)


def test_ties_follow_the_order_of_the_bank(path):
    bank = np.tile([[0.0, 2.0]], (9, 1))
    labels = np.array([3, 1, 1, 2, 2, 2, 0, 0, 0])
    (_, similarities, found, indices), = nearest_neighbours(bank, labels, bank[:2], 4, bank_block=5)
    assert indices.tolist() == [[0, 1, 2, 3]] * 2 and found.tolist() == [[3, 1, 1, 2]] * 2
    # two votes against one; and class 1 before class 3 where votes are equal
    assert knn_accuracy(bank, labels, bank[:1], np.array([1]), ks=[3])[0].top1 == 1
    assert knn_accuracy(bank, labels, bank[:1], np.array([1]), ks=[2])[0].top1 == 1
    assert knn_accuracy(bank, labels, bank[:1], np.array([3]), ks=[2])[0][2:] == (0, 1)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_ranks_give_what_one_process_gives(interleaved, leave_one_out):
    bank, labels = clouds(41)
    bank[10:20] = bank[:10]  # ties across the ranks
    queries, query_labels = (bank, labels) if leave_one_out else clouds(23, seed=1)
    common = dict(ks=(1, 5, 20), leave_one_out=leave_one_out, query_block=10, bank_block=6)
    shares = [np.arange(41)[rank::3] for rank in range(3)] if interleaved else np.split(np.arange(41), [4, 30])
    expected = knn_accuracy(bank, labels, queries, query_labels, **common)
    results = run_ranks(3, lambda rank, collectives: knn_accuracy(
        bank[shares[rank]], labels[shares[rank]], queries, query_labels, collectives=collectives,
        bank_indices=shares[rank] if interleaved else None, **common))
    assert results == [expected] * 3


def test_more_neighbours_than_the_bank_has():
    bank, labels = clouds(12)
    with pytest.warns(UserWarning, match=r"k = \[200\] exceeds the 12 neighbours"):
        found = knn_accuracy(bank, labels, bank, labels, ks=(12, 200), temperatures=[0.1])
    assert found[0][1:] == found[1][1:] and found[1].k == 200


def test_unlabelled_queries_and_unknown_classes():
    bank, labels = np.eye(3), np.array([0, 1, 2])
    found, = knn_accuracy(bank, labels, np.eye(3)[[0, 1, 2]], np.array([0, -1, 7]), ks=[1], temperatures=[0.1])
    assert found.top1 == 0.5 and found.top5 == 0.5


def test_tensors_and_small_temperatures():
    bank, labels = clouds(50)
    expected = knn_accuracy(bank, labels, ks=[5], temperatures=[1e-4], leave_one_out=True)
    found = knn_accuracy(paddle.to_tensor(bank), paddle.to_tensor(labels), ks=[5], temperatures=[1e-4],
                         leave_one_out=True)
    assert found == expected
    nearest_alone, = knn_accuracy(bank, labels, ks=[1], temperatures=[1e-4], leave_one_out=True)
    assert found[0].top1 == nearest_alone.top1 < found[0].top5


@pytest.mark.parametrize("change, error, message", [
    (dict(bank=np.full((4, 2), np.nan)), FloatingPointError, "bank: 4 rows"),
    (dict(queries=np.full((3, 2), np.inf)), FloatingPointError, "queries: 3 rows"),
    (dict(queries=np.ones((3, 5))), ValueError, "2 columns, queries 5"),
    (dict(bank_labels=np.array([0, 1, 2])), ValueError, r"bank_labels must be integers \[4\]"),
    (dict(bank_labels=np.array([0, 1, 2, -1])), ValueError, "bank_labels must be at least 0"),
    (dict(query_labels=np.array([-1, -1, -1])), ValueError, "no query has a label"),
    (dict(query_labels=np.array([0.0, 1, 2])), ValueError, "query_labels must be integers"),
    (dict(bank=np.ones((0, 2)), bank_labels=np.zeros(0, int)), ValueError, "no neighbour"),
    (dict(leave_one_out=True), ValueError, "one query per bank row"),
    (dict(queries=None), ValueError, "queries and query_labels"),
    (dict(ks=[0]), ValueError, "ks must be"),
    (dict(temperatures=[0.0]), ValueError, "temperatures positive"),
    (dict(bank_indices=np.arange(3)), ValueError, r"bank_indices must be \[4\]"),
])
def test_wrong_arguments(change, error, message):
    arguments = dict(bank=np.ones((4, 2)), bank_labels=np.array([0, 1, 2, 0]), queries=np.ones((3, 2)),
                     query_labels=np.array([0, 1, 2]), ks=[2])
    with pytest.raises(error, match=message):
        knn_accuracy(**{**arguments, **change})
