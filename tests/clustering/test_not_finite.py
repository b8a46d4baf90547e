"""NaN and infinity in what is clustered end in an error on every rank, except within a training step."""
import numpy as np
import paddle
import pytest

from passl.clustering import balanced_labels, kmeans, sinkhorn
from passl.clustering.sinkhorn import sinkhorn_unchecked
from passl.errors import NotFinite
from tests.simulated_ranks import run_ranks

VALUES = [np.nan, np.inf, -np.inf]
FUNCTIONS = {"sinkhorn": sinkhorn, "balanced_labels": balanced_labels,
             "kmeans": lambda rows, **options: kmeans(rows, 2, **options)}


def rows(count=8):
    return np.random.RandomState(0).randn(count, 3)


def broken_by(value, dtype="float32", count=8):
    """`rows` with one value that is not finite, in row 6."""
    data = rows(count).astype(dtype)
    data[6, 2] = value
    return data


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "tensor"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_refuses_rows_that_are_not_finite(name, kind, value):
    data = paddle.to_tensor(broken_by(value)) if kind == "tensor" else broken_by(value, kind)
    with pytest.raises(NotFinite, match="1 rows hold NaN or infinity .*row 6"):
        FUNCTIONS[name](data)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_rank_with_the_row_and_the_other_one_both_stop(name):
    data = broken_by(np.nan)

    def told(rank, collectives):
        with pytest.raises(NotFinite) as error:
            FUNCTIONS[name](data[4 * rank:4 * rank + 4], collectives=collectives)
        return str(error.value)

    clean, broken = run_ranks(2, told)
    assert "1 rows" in clean and "none of them on this rank" in clean and "row 2" in broken


def test_one_of_several_problems_is_enough():
    with pytest.raises(NotFinite, match="1 rows .* row 6"):
        sinkhorn(np.stack([rows(), broken_by(np.nan, "float64")]))


def test_scores_that_overflow_when_divided_by_epsilon_are_none():
    with pytest.raises(NotFinite, match="scores: 8 rows"):
        sinkhorn(np.full((8, 3), 1e38, "float32"), 1e-3)


@pytest.mark.parametrize("value", VALUES)
def test_other_arrays_are_looked_at_too(value):
    with pytest.raises(NotFinite, match="initial_centroids: 1 rows .* row 6"):
        kmeans(rows(), initial_centroids=broken_by(value))
    with pytest.raises(NotFinite):
        balanced_labels(rows(), weight=broken_by(value)[4:7], bias=np.zeros(3))
    with pytest.raises(NotFinite):
        balanced_labels(rows(), weight=rows(3), bias=np.array([0, value, 0]))


def test_a_training_step_does_not_wait_for_the_look(monkeypatch):
    def waited(*_):
        raise AssertionError("the device is waited for")

    data = paddle.to_tensor(rows().astype("float32"))
    for name in ("numpy", "item", "tolist", "__bool__", "__float__", "__int__", "__index__", "__array__"):
        monkeypatch.setattr(paddle.Tensor, name, waited)
    found = sinkhorn_unchecked(data, 0.05, 3)
    with pytest.raises(AssertionError, match="waited for"):
        sinkhorn(data)
    monkeypatch.undo()
    np.testing.assert_array_equal(found.soft.numpy(), sinkhorn(data).soft.numpy())
