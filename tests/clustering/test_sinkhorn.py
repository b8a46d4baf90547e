"""Sinkhorn assignments against the reference's numbers, and where the reference overflows."""
import numpy as np
import paddle
import pytest

from passl.clustering.sinkhorn import harden, sinkhorn
from tests.golden.networks import load
from tests.simulated_ranks import run_ranks


def scores(batch, prototypes, offset=0.0):
    rows, columns = np.arange(batch)[:, None], np.arange(prototypes)[None]
    return (0.9 * np.sin(1.0 + offset + 0.7 * rows + 1.3 * columns)).astype("float32")


@pytest.mark.parametrize("case", load("reference_functions.json")["sinkhorn"],
                         ids=lambda case: f"B{case['B']}K{case['K']}eps{case['eps']}it{case['iters']}")
def test_equals_reference(case):
    result = sinkhorn(paddle.to_tensor(scores(case["B"], case["K"], case["off"])), case["eps"], case["iters"])
    np.testing.assert_allclose(result.soft.numpy(), case["Q"], atol=2e-6)  # one rounding of the scores: 5e-7


def test_independent_problems_share_a_call():
    stacked = np.stack([scores(8, 3), scores(8, 3, 0.4)])
    joint = sinkhorn(paddle.to_tensor(stacked)).soft.numpy()
    for problem, expected in zip(stacked, joint):
        np.testing.assert_allclose(sinkhorn(paddle.to_tensor(problem)).soft.numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-4, 1e-6, 10.0])
def test_any_epsilon_is_finite_and_balanced_towards_uniform(epsilon):
    few = sinkhorn(paddle.to_tensor(scores(64, 7).astype("float64")), epsilon, 3)
    many = sinkhorn(paddle.to_tensor(scores(64, 7).astype("float64")), epsilon, 400)
    for result in (few, many):
        assert np.isfinite(result.soft.numpy()).all()
        np.testing.assert_allclose(result.soft.numpy().sum(1), 1.0, atol=1e-6)
    assert float(many.marginal_error) <= float(few.marginal_error) + 1e-9


def test_small_epsilon_in_fp32_equals_fp64():
    data = scores(64, 7)
    narrow = sinkhorn(paddle.to_tensor(data), 1e-3, 3).soft.numpy()
    wide = sinkhorn(paddle.to_tensor(data.astype("float64")), 1e-3, 3).soft.numpy()
    np.testing.assert_allclose(narrow, wide, atol=2e-3)  # scores/epsilon near 900 carry 6e-5 of rounding each


def test_marginal_error_is_that_of_the_last_prototype_step():
    data = paddle.to_tensor(scores(8, 3).astype("float64"))
    before_last = sinkhorn(data, 0.05, 4).soft.numpy().sum(0)
    expected = np.abs(before_last / before_last.mean() - 1).max()
    assert float(sinkhorn(data, 0.05, 5).marginal_error) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(8, 3), (2, 4, 3)])
def test_numpy_in_numpy_out(dtype, shape):
    data = scores(8, 3).reshape(shape[:-2] + (-1, 3)).astype(dtype)
    found, expected = sinkhorn(data), sinkhorn(paddle.to_tensor(data))
    assert type(found.soft) is np.ndarray and isinstance(expected.soft, paddle.Tensor)
    assert found.soft.dtype == ("float64" if dtype == "float64" else "float32") and found.soft.shape == shape
    np.testing.assert_array_equal(found.soft, expected.soft.numpy())
    np.testing.assert_array_equal(found.marginal_error, expected.marginal_error.numpy())


def test_given_collectives_join_the_ranks():
    data = scores(9, 3).astype("float64")
    parts = [data[:5], data[5:]]
    found = run_ranks(2, lambda rank, collectives: sinkhorn(parts[rank], collectives=collectives).soft)
    np.testing.assert_allclose(np.concatenate(found), sinkhorn(data).soft, atol=1e-12)


@pytest.mark.parametrize("wrong", [np.zeros(3, "float32"), np.zeros((1, 2, 3, 4)), np.zeros((4, 3), "int64"),
                                   paddle.zeros([4, 3], "int32"), paddle.zeros([3])])
def test_anything_but_float_scores_is_refused(wrong):
    with pytest.raises(ValueError, match=r"needs float scores \[N, K\] or \[A, N, K\], got \w+ of shape \["):
        sinkhorn(wrong)


def test_half_precision_scores_are_widened():
    assert sinkhorn(paddle.to_tensor(scores(8, 3)).astype("float16")).soft.dtype == paddle.float32


def test_harden_is_one_hot_of_the_largest():
    hard = harden(paddle.to_tensor([[0.2, 0.5, 0.3], [0.9, 0.1, 0.0]]))
    np.testing.assert_array_equal(hard.numpy(), [[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize("arguments, message", [(dict(epsilon=0.0), "epsilon must be positive"),
                                                (dict(epsilon=np.nan), "epsilon must be positive"),
                                                (dict(iterations=0), "at least one iteration")])
def test_refuses_meaningless_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        sinkhorn(paddle.to_tensor(scores(4, 3)), **arguments)
