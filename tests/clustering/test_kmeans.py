import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passl import arrays as blocks
from passl.clustering.kmeans import kmeans
from passl.distributed import collective_counter
from tests.simulated_ranks import run_ranks

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "reference_functions.json").read_text())


def unit_rows(rows, columns, seed=0, dtype=np.float64):
    x = np.random.default_rng(seed).standard_normal((rows, columns))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


def plain_kmeans(x, centroids, iterations=10):
    """The published rule, one cluster at a time."""
    for _ in range(iterations):
        labels = (x @ centroids.T).argmax(1)
        centroids = np.stack([x[labels == k].mean(0) if (labels == k).any() else c for k, c in enumerate(centroids)])
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    return centroids, (x @ centroids.T).argmax(1)


@pytest.fixture(params=["host", "accelerator"])
def path(request, monkeypatch):
    """Both code paths: NumPy, and the Paddle one that accelerators take."""
    if request.param == "accelerator":
        monkeypatch.setattr(blocks, "uses_accelerator", lambda array: True)
    return request.param


@pytest.mark.parametrize("case", GOLDEN["spherical_kmeans_10it"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["numpy", "paddle"])
def test_published_rule(case, dtype, kind, path):
    angles = np.deg2rad(case["angles_deg"])
    x = np.stack([np.cos(angles), np.sin(angles)], 1).astype(dtype)
    if kind == "paddle":
        x = paddle.to_tensor(x)
    start = np.asarray(x)[case["init_idx"]]
    centroids, labels, counts = kmeans(x, initial_centroids=start, block_size=4)
    assert isinstance(labels, paddle.Tensor) == (kind == "paddle")
    centroids, labels = np.asarray(centroids), np.asarray(labels)
    assert labels.tolist() == case["final_assign"] and labels.dtype == np.int64
    assert np.asarray(counts).tolist() == np.bincount(labels, minlength=len(start)).tolist()
    found = np.rad2deg(np.arctan2(centroids[:, 1], centroids[:, 0]))
    np.testing.assert_allclose(found, case["final_centroid_angle_deg"], atol=1e-4 if dtype == "float32" else 1e-9)


def test_equals_one_cluster_at_a_time(path):
    x = unit_rows(300, 8)
    centroids, labels = plain_kmeans(x, x[:7])
    result = kmeans(x, initial_centroids=x[:7], block_size=64)
    assert result.labels.tolist() == labels.tolist()
    np.testing.assert_allclose(result.centroids, centroids, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.integers(1, 50))
def test_block_size_and_row_order_change_nothing(seed, rows, clusters, block_size):
    x = unit_rows(rows, 5, seed)
    start = unit_rows(clusters, 5, seed + 1)
    order = np.random.default_rng(seed).permutation(rows)
    whole = kmeans(x, initial_centroids=start)
    shuffled = kmeans(x[order], initial_centroids=start, block_size=block_size)
    assert shuffled.labels.tolist() == whole.labels[order].tolist()
    np.testing.assert_allclose(shuffled.centroids, whole.centroids, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 30), min_size=1, max_size=3))
def test_ranks_give_what_one_process_gives(seed, shares):
    shares[0] += 5  # rank 0 provides the five initial rows
    x = unit_rows(sum(shares), 4, seed)
    parts = np.split(x, np.cumsum(shares)[:-1])
    whole = kmeans(x, initial_centroids=x[:5])
    results = run_ranks(len(shares), lambda rank, collectives: kmeans(
        parts[rank], initial_centroids=x[:5] * (rank == 0), collectives=collectives))
    assert np.concatenate([result.labels for result in results]).tolist() == whole.labels.tolist()
    for result in results:
        np.testing.assert_allclose(result.centroids, whole.centroids, atol=1e-12)
        assert result.counts.tolist() == whole.counts.tolist()


def test_drawn_rows_come_from_rank_zero_and_follow_the_seed():
    parts = [unit_rows(9, 4, 1), unit_rows(3, 4, 2)]
    results = run_ranks(2, lambda rank, collectives: kmeans(
        parts[rank], 6, iterations=0, seed=7, collectives=collectives))
    drawn = results[0].centroids
    assert (drawn == results[1].centroids).all()
    assert all(np.isclose(parts[0], row).all(1).sum() == 1 for row in drawn)
    assert len(np.unique(drawn.round(9), axis=0)) == 6
    assert (kmeans(parts[0], 6, iterations=0, seed=7).centroids == drawn).all()
    assert (kmeans(parts[0], 6, iterations=0, seed=8).centroids != drawn).any()
    tensor = kmeans(paddle.to_tensor(parts[0]), 6, iterations=0, seed=7).centroids
    assert (tensor.numpy() == drawn).all()


def test_one_all_reduce_per_iteration():
    x = unit_rows(20, 4, dtype=np.float32)
    with collective_counter() as counter:
        kmeans(x, 3, iterations=10)
    sums = [size for name, size in counter.calls if name == "all_reduce" and size == 3 * (4 + 1) * 8]
    assert len(sums) == 10 and len(counter.calls) == 10 + 4  # finiteness, row count, start, final counts


def test_memory_map_and_half_precision(tmp_path):
    x = unit_rows(64, 8, dtype=np.float16)
    np.save(tmp_path / "bank.npy", x)
    mapped = np.load(tmp_path / "bank.npy", mmap_mode="r")
    expected = kmeans(x.astype(np.float32), 5)
    found = kmeans(mapped, 5)
    assert found.labels.tolist() == expected.labels.tolist() and found.centroids.dtype == np.float32
    assert kmeans(paddle.to_tensor(x.astype(np.float32)).astype("bfloat16"), 5).labels.shape == [64]


def test_empty_cluster_keeps_its_centroid():
    x = np.array([[1.0, 0], [1, 0], [0.8, 0.6]])
    start = np.array([[1.0, 0], [-1, 0]])
    result = kmeans(x, initial_centroids=start)
    assert result.centroids[1].tolist() == [-1, 0] and result.counts.tolist() == [3, 0]


def test_rows_that_cancel_out_keep_the_centroid():
    result = kmeans(np.array([[1.0, 0], [-1, 0]]), initial_centroids=np.array([[0.0, 1]]))
    assert result.centroids.tolist() == [[0, 1]]


def test_equal_embeddings_share_the_first_cluster(path):
    x = np.tile([[0.6, 0.8]], (10, 1))
    result = kmeans(x, 3)
    assert result.labels.tolist() == [0] * 10
    np.testing.assert_allclose(result.centroids, x[:3])


def test_fewer_rows_than_clusters():
    x = unit_rows(4, 3)
    with pytest.raises(ValueError, match="draw 5 initial centroids from the 4 rows of rank 0"):
        kmeans(x, 5)
    start = unit_rows(6, 3, 1)
    result = kmeans(x, initial_centroids=start)
    assert result.counts.sum() == 4 and (np.linalg.norm(result.centroids, axis=1) > 0.999).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_on_one_rank_stops_all(value):
    parts = [unit_rows(6, 3), unit_rows(6, 3, 1)]
    parts[1][4, 2] = value
    messages = []

    def run(rank, collectives):
        try:
            kmeans(parts[rank], 2, collectives=collectives)
        except FloatingPointError as error:
            messages.append((rank, str(error)))

    run_ranks(2, run)
    messages = dict(messages)
    assert "1 rows" in messages[0] and "none of them on this rank" in messages[0]
    assert "row 4" in messages[1]


@pytest.mark.parametrize("arguments, message", [
    (dict(features=np.zeros((3, 2), np.int64), num_clusters=1), "float matrix"),
    (dict(features=np.zeros(3), num_clusters=1), "float matrix"),
    (dict(features=np.zeros((3, 2))), "num_clusters"),
    (dict(features=np.zeros((3, 2)), num_clusters=0), "num_clusters"),
    (dict(features=np.zeros((3, 2)), num_clusters=2, initial_centroids=np.zeros((3, 2))), r"must be \[2, D\]"),
    (dict(features=np.zeros((3, 2)), initial_centroids=np.zeros((3, 4))), "4 columns"),
    (dict(features=np.zeros((3, 2)), num_clusters=1, iterations=-1), "iterations"),
    (dict(features=np.zeros((3, 2)), num_clusters=1, block_size=0), "block_size"),
])
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kmeans(**arguments)


def test_products_of_blocks_share_their_memory():
    x, weight = unit_rows(10, 4, dtype=np.float32), unit_rows(6, 4).T  # in Fortran order, as transposed centroids are
    addresses, expected = set(), x @ weight.astype(np.float32)
    for rows, block, product in blocks.RowBlocks(x, "x", 6, block_size=4).products(weight):
        addresses.add(product.ctypes.data)
        np.testing.assert_array_equal(block, x[rows])
        np.testing.assert_allclose(product, expected[rows], rtol=1e-5)
    assert len(addresses) == 1
