"""Positions on the map keep neighbours together, for every way to make it."""
import importlib.util

import numpy as np
import pytest

from passl.errors import UserError
from passl.evaluation.plane import METHODS, plane_map


def clouds(rows=240, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % 6
    return generator.standard_normal((6, 32))[labels] + 0.3 * generator.standard_normal((rows, 32)), labels


def neighbours_of_the_same_cloud(points, labels):
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return float((labels[np.argsort(distances, axis=1)[:, :5]] == labels[:, None]).mean())


@pytest.mark.parametrize("method, most_fitted, least", [("tsne", 5000, 0.97), ("tsne", 100, 0.97), ("pca", 5000, 0.7),
                                                        ("umap", 5000, 0.97)])
def test_neighbours_stay_together(method, most_fitted, least):
    if method == "umap" and not importlib.util.find_spec("umap"):
        pytest.skip("umap-learn is not installed")
    features, labels = clouds()
    points = plane_map(features * 7, method, most_fitted=most_fitted)
    assert points.shape == (240, 2) and points.dtype == np.float32
    assert points.min() >= 0 and points.max() <= 1 and np.ptp(points, axis=0).max() == pytest.approx(1, abs=1e-5)
    assert neighbours_of_the_same_cloud(points, labels) > least
    assert neighbours_of_the_same_cloud(np.random.default_rng(0).random((240, 2)), labels) < 0.3


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 9])
@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_few_rows(rows, method):
    points = plane_map(np.random.default_rng(rows).standard_normal((rows, 3)), method)
    assert np.isfinite(points).all() and len(np.unique(points, axis=0)) == rows


def test_equal_rows_and_unknown_maps():
    assert np.isfinite(plane_map(np.ones((12, 4)))).all()
    assert np.isfinite(plane_map(np.ones((12, 1)))).all()
    with pytest.raises(UserError, match=", ".join(METHODS)):
        plane_map(np.ones((12, 4)), "mds")
    if not importlib.util.find_spec("umap"):
        with pytest.raises(UserError, match="umap-learn"):
            plane_map(clouds()[0], "umap")
