"""Neighbours and outliers against brute force."""
import numpy as np
import pytest

from passl.errors import NotFinite, UserError
from passl.evaluation.neighbours import neighbours_of_each, outlier_scores


def brute_force(features, k):
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    found = []
    for row in range(len(units)):
        cosines = [(-float(units[row] @ units[other]), other) for other in range(len(units)) if other != row]
        found.append(sorted(cosines)[:k])
    return found


@pytest.mark.parametrize("rows, k", [(2, 1), (7, 3), (60, 12), (5, 12)])
def test_neighbours_equal_brute_force(rows, k):
    features = np.random.default_rng(rows).standard_normal((rows, 6))
    found, expected = neighbours_of_each(features, k), brute_force(features, min(k, rows - 1))
    assert found.indices.tolist() == [[other for _, other in row] for row in expected]
    np.testing.assert_allclose(found.cosines, [[-cosine for cosine, _ in row] for row in expected], atol=1e-6)
    np.testing.assert_allclose(outlier_scores(found), 1 - found.cosines.mean(1), atol=1e-6)


def test_the_strange_one_is_the_outlier_even_twice():
    generator = np.random.default_rng(0)
    crowd = np.array([1.0, 0, 0, 0]) + 0.05 * generator.standard_normal((40, 4))
    strange = np.array([[0, 0, 1.0, 0], [0, 0, 1.0, 0.001]])
    scores = outlier_scores(neighbours_of_each(np.concatenate([crowd, strange]), 8))
    assert set(np.argsort(-scores)[:2].tolist()) == {40, 41}
    assert scores[40:].min() > 10 * scores[:40].max()


def test_what_cannot_be_compared_is_refused():
    assert neighbours_of_each(np.ones((1, 3)), 4).indices.shape == (1, 0)
    assert outlier_scores(neighbours_of_each(np.ones((1, 3)), 4)).tolist() == [0]
    with pytest.raises(UserError, match="at least one"):
        neighbours_of_each(np.ones((3, 3)), 0)
    with pytest.raises(NotFinite):
        neighbours_of_each(np.array([[1.0, np.nan], [1, 1], [0, 1]]), 1)
