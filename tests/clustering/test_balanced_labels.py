import tracemalloc

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passl import arrays as blocks
from passl.clustering.balanced_labels import balanced_labels
from passl.distributed import collective_counter
from tests.simulated_ranks import run_ranks

# rows, clusters, exponent, amplitude, steps, counts, labels, error: the reference solver's answers
REFERENCE = [
    (24, 4, 25, 0.3, 21, [5, 7, 6, 6], "321101230230313102132102", 0.00258),
    (24, 4, 10, 1.0, 21, [5, 7, 6, 6], "321101230230313102132102", 0.01358),
    (40, 5, 25, 1.0, 41, [7, 9, 8, 8, 8], "3211032302403141421321021404240341043132", 0.09907),
]


def sine_logits(rows, clusters, amplitude, dtype="float64"):
    i, k = np.arange(rows)[:, None], np.arange(clusters)[None]
    return (amplitude * np.sin(1 + 1.7 * i + 2.3 * k + 0.31 * i * k)).astype(dtype)


def plain_sinkhorn(logits, exponent, tolerance=0.1):
    """SeLa's solver in linear space and float64."""
    n, k = logits.shape
    p = np.exp(logits - logits.max(1, keepdims=True))
    p = (p / p.sum(1, keepdims=True))**exponent
    c, step, error = np.full(n, 1 / n), 0, 1e6
    while error > tolerance:
        r = (1 / k) / (c @ p)
        updated = (1 / n) / (p @ r)
        if step % 10 == 0:
            error = np.abs(c / updated - 1).sum()
        c, step = updated, step + 1
    return c[:, None] * p * r, step, error


@pytest.fixture(params=["host", "accelerator"])
def path(request, monkeypatch):
    """Both code paths: NumPy, and the Paddle one that accelerators take."""
    if request.param == "accelerator":
        monkeypatch.setattr(blocks, "uses_accelerator", lambda array: True)
    return request.param


@pytest.mark.parametrize("rows, clusters, exponent, amplitude, steps, counts, labels, error", REFERENCE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["numpy", "paddle"])
def test_reference_labels_counts_and_steps(rows, clusters, exponent, amplitude, steps, counts, labels, error, dtype,
                                           kind, path):
    logits = sine_logits(rows, clusters, amplitude, dtype)
    result = balanced_labels(paddle.to_tensor(logits) if kind == "paddle" else logits, exponent=exponent, block_size=7)
    assert isinstance(result.labels, paddle.Tensor) == (kind == "paddle")
    assert "".join(map(str, np.asarray(result.labels))) == labels
    assert np.asarray(result.counts).tolist() == counts
    assert result.iterations == steps and result.converged
    assert result.error == pytest.approx(error, abs=6e-6)


@pytest.mark.parametrize("amplitude", [0.02, 1.0, 3.0])
def test_plan_equals_the_linear_space_solver(amplitude, path):
    logits = np.random.default_rng(0).standard_normal((200, 12)) * amplitude
    plan, steps, error = plain_sinkhorn(logits, exponent=10)
    result = balanced_labels(logits, exponent=10, soft=True, block_size=64)
    assert result.iterations == steps and result.error == pytest.approx(error, rel=1e-6)
    np.testing.assert_allclose(result.assignments, plan * len(logits), atol=1e-12)
    assert result.labels.tolist() == plan.argmax(1).tolist()
    np.testing.assert_allclose(result.assignments.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(result.assignments.sum(0), 200 / 12, rtol=1e-2)


def test_float32_reaches_the_summed_tolerance():
    """float32 potentials would stall at a mean error of about 1e-7 per image, above this tolerance."""
    logits = np.random.default_rng(1).standard_normal((3000, 20)).astype(np.float32)
    single = balanced_labels(logits, exponent=8, tolerance=1e-7)
    double = balanced_labels(logits.astype(np.float64), exponent=8, tolerance=1e-7)
    assert single.converged and single.iterations == double.iterations
    assert (single.labels == double.labels).mean() > 0.999


@pytest.mark.parametrize("dtype, spread", [("float32", 1e3), ("float64", 1e4)])
def test_no_exponent_overflows_and_no_cluster_vanishes(dtype, spread, path):
    """One cluster is better than all others for every image by far more than the number range."""
    logits = np.random.default_rng(2).uniform(-1, 1, (60, 6)).astype(dtype)
    logits[:, 2] += spread
    result = balanced_labels(logits, exponent=1.0, tolerance=1e-6, soft=True)
    plain = balanced_labels(np.where(np.arange(6) == 2, logits - spread, logits).astype(dtype), exponent=1.0,
                            tolerance=1e-6, soft=True)
    assert np.isfinite(result.assignments).all() and result.converged
    np.testing.assert_allclose(result.assignments, plain.assignments, atol=1e-3 if dtype == "float32" else 1e-9)
    assert result.counts.min() > 0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 6), st.integers(1, 50), st.integers(0, 2000))
def test_blocks_kept_memory_and_order_change_nothing(seed, rows, clusters, block_size, kernel_memory):
    rng = np.random.default_rng(seed)
    logits, order = rng.standard_normal((rows, clusters)), rng.permutation(rows)
    whole = balanced_labels(logits, exponent=5, soft=True)
    blocked = balanced_labels(logits[order], exponent=5, soft=True, block_size=block_size, kernel_memory=kernel_memory)
    assert blocked.iterations == whole.iterations
    np.testing.assert_allclose(blocked.assignments, whole.assignments[order], atol=1e-10)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 30), min_size=1, max_size=3))
def test_ranks_give_what_one_process_gives(seed, shares):
    shares[-1] += 3
    logits = np.random.default_rng(seed).standard_normal((sum(shares), 4))
    parts = np.split(logits, np.cumsum(shares)[:-1])
    whole = balanced_labels(logits, exponent=5, soft=True)
    results = run_ranks(len(shares), lambda rank, collectives: balanced_labels(
        parts[rank], exponent=5, soft=True, collectives=collectives))
    np.testing.assert_allclose(np.concatenate([r.assignments for r in results]), whole.assignments, atol=1e-10)
    assert all(r.iterations == whole.iterations and r.counts.tolist() == whole.counts.tolist() for r in results)


def test_one_all_reduce_per_iteration():
    with collective_counter() as counter:
        result = balanced_labels(sine_logits(24, 4, 0.3))
    assert counter.calls.count(("all_reduce", (4 + 1) * 8)) == result.iterations
    assert len(counter) == result.iterations + 5  # rows, finiteness, scale, first column sums, final counts


class CountedReads(np.ndarray):
    reads = 0

    def __getitem__(self, key):
        CountedReads.reads += isinstance(key, slice)
        return super().__getitem__(key)


def test_kernel_blocks_are_formed_once_when_there_is_room(path):
    features, weight = np.random.default_rng(6).standard_normal((40, 6)).view(CountedReads), np.eye(6)
    CountedReads.reads = 0
    kept = balanced_labels(features, weight, exponent=1, block_size=10)
    assert CountedReads.reads == 4 and kept.iterations > 1
    again = balanced_labels(features, weight, exponent=1, block_size=10, kernel_memory=0)
    assert CountedReads.reads == 4 + 4 * (again.iterations + 3)  # start, first column sums, iterations, labels
    assert again.labels.tolist() == kept.labels.tolist() and again.error == kept.error


def test_memory_of_kernel_blocks_is_reused():
    features, weight = np.random.default_rng(7).standard_normal((2, 1500, 16)).astype(np.float32)
    weight = np.tile(weight.T, (1, 2))  # 3000 clusters: 18 MB of float32 kernel
    tracemalloc.start()
    balanced_labels(features, weight, temperature=10, tolerance=0.5, tolerance_mode="mean", kernel_memory=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 2**20


@pytest.mark.parametrize("with_bias", [False, True])
def test_features_with_weight_equal_their_logits(with_bias, path):
    rng = np.random.default_rng(3)
    features, weight, bias = rng.standard_normal((50, 6)), rng.standard_normal((6, 4)), rng.standard_normal(4)
    logits = features @ weight + (bias if with_bias else 0)
    expected = balanced_labels(logits, exponent=2, temperature=0.5)
    found = balanced_labels(features, weight, bias if with_bias else None, exponent=2, temperature=0.5, block_size=8)
    assert found.labels.tolist() == expected.labels.tolist() and found.iterations == expected.iterations
    # temperature and exponent act through their ratio, SwAV's epsilon, except on the starting point
    other = balanced_labels(logits, exponent=4, tolerance=1e-9)
    same = balanced_labels(logits, exponent=2, temperature=0.5, tolerance=1e-9)
    assert other.labels.tolist() == same.labels.tolist()


def test_bfloat16_prototypes_and_trainable_tensors():
    rng = np.random.default_rng(4)
    features = paddle.to_tensor(rng.standard_normal((50, 6)).astype(np.float32), stop_gradient=False)
    weight = paddle.to_tensor(rng.standard_normal((6, 4)).astype(np.float32)).astype("bfloat16")
    expected = balanced_labels(features.numpy(), weight.astype("float32").numpy(), exponent=2)
    found = balanced_labels(features, weight, exponent=2)
    assert found.labels.tolist() == expected.labels.tolist() and found.counts.sum() == 50


def test_tolerance_modes_and_the_cap():
    logits = sine_logits(40, 5, 1.0)
    total = balanced_labels(logits, tolerance=0.4)
    mean = balanced_labels(logits, tolerance=0.01, tolerance_mode="mean")
    assert mean.iterations == total.iterations and mean.error == pytest.approx(total.error / 40)
    with pytest.warns(UserWarning, match="stopped after 15 iterations"):
        capped = balanced_labels(logits, max_iterations=15)
    assert capped.iterations == 15 and not capped.converged


def test_equal_images_share_a_label_but_the_plan_is_balanced():
    result = balanced_labels(np.tile([[0.3, -0.2, 0.1]], (9, 1)), soft=True)
    assert len(set(result.labels.tolist())) == 1 and result.counts.sum() == 9
    np.testing.assert_allclose(result.assignments, 1 / 3, rtol=1e-9)


def test_fewer_images_than_clusters():
    result = balanced_labels(sine_logits(3, 7, 1.0), soft=True)
    np.testing.assert_allclose(result.assignments.sum(0), 3 / 7, rtol=0.05)
    assert sorted(result.counts.tolist()) == [0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_is_an_error(value):
    logits = sine_logits(24, 4, 0.3)
    logits[13, 1] = value
    with pytest.raises(FloatingPointError, match="1 rows .* row 13"):
        balanced_labels(logits, block_size=5)


@pytest.mark.parametrize("arguments, message", [
    (dict(inputs=np.zeros((0, 3))), "no rows on any rank"),
    (dict(inputs=np.zeros((4, 3)), bias=np.zeros(3)), "without weight"),
    (dict(inputs=np.zeros((4, 3)), weight=np.zeros((2, 5))), r"weight must be \[3, K\]"),
    (dict(inputs=np.zeros((4, 3)), weight=np.zeros((3, 5)), bias=np.zeros(3)), r"bias must be \[5\]"),
    (dict(inputs=np.zeros((4, 3)), tolerance_mode="max"), "tolerance_mode"),
    (dict(inputs=np.zeros((4, 3)), exponent=0), "exponent"),
    (dict(inputs=np.zeros((4, 3)), temperature=-1), "temperature"),
    (dict(inputs=np.zeros((4, 3)), max_iterations=0), "max_iterations"),
])
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        balanced_labels(**arguments)
