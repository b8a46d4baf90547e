"""Features of many columns as points of a plane, so that a person can look at them."""
from __future__ import annotations

import numpy as np

from passl.arrays import to_numpy
from passl.errors import UserError

METHODS = ("tsne", "umap", "pca")
MOST_FITTED = 5000  # rows that t-SNE is run on; the time grows a little faster than their number
COMPONENTS = 50  # principal components that t-SNE and UMAP see: enough for neighbours, and much faster


def plane_map(features, method: str = "tsne", seed: int = 0, most_fitted: int = MOST_FITTED) -> np.ndarray:
    """Positions float32 [N, 2] between 0 and 1, in which rows of large cosine lie side by side.

    features: float [N, D]. method: "tsne" (scikit-learn) keeps neighbours together and says nothing of distances
    between groups; "umap" does the same and needs the package umap-learn; "pca" is a straight projection.
    Of more than `most_fitted` rows a random sample is laid out, and every other row is put between the three rows of
    the sample that are nearest to it.

    Example:
        >>> import numpy as np
        >>> plane_map(np.random.RandomState(0).standard_normal((40, 8)), "pca").shape
        (40, 2)
    """
    if method not in METHODS:
        raise UserError(f"there is no map '{method}'; choose {', '.join(METHODS)}")
    features = _unit_rows(to_numpy(features).astype(np.float32))
    rows = len(features)
    if rows <= most_fitted or method == "pca":
        return _scaled(_fit(features, method, seed))
    from sklearn.neighbors import NearestNeighbors

    sample = np.sort(np.random.default_rng(seed).permutation(rows)[:most_fitted])
    fitted = _fit(features[sample], method, seed)
    found = NearestNeighbors(n_neighbors=3, algorithm="brute").fit(features[sample])
    points = np.empty([rows, 2], np.float32)
    for start in range(0, rows, 4096):
        distances, nearest = found.kneighbors(features[start:start + 4096])
        weights = 1 / (distances + 1e-3)
        points[start:start + 4096] = (fitted[nearest] * weights[..., None]).sum(1) / weights.sum(1, keepdims=True)
    points[sample] = fitted
    return _scaled(points)


def _fit(features: np.ndarray, method: str, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    rows = len(features)
    if rows < 5 or not features.std(0).any():  # too few for any of them, or all equal: side by side
        return np.stack([np.arange(rows), np.zeros(rows)], axis=1).astype(np.float32)
    components = 2 if method == "pca" else min(COMPONENTS, *features.shape)
    reduced = PCA(max(2, components) if features.shape[1] > 1 else 1, random_state=seed).fit_transform(features)
    reduced = np.pad(reduced, [(0, 0), (0, max(0, 2 - reduced.shape[1]))])
    if method == "pca":
        return reduced[:, :2].astype(np.float32)
    if method == "umap":
        try:
            from umap import UMAP
        except ImportError:
            raise UserError("the map 'umap' needs the package umap-learn", 'pip install "passl[umap]", or take the map '
                            "'tsne'") from None
        return UMAP(n_neighbors=min(15, rows - 1), random_state=seed, n_jobs=1).fit_transform(reduced)
    from sklearn.manifold import TSNE

    return TSNE(perplexity=min(30.0, (rows - 1) / 3), init="pca", random_state=seed,
                n_jobs=-1).fit_transform(reduced)


def _scaled(points: np.ndarray) -> np.ndarray:
    """Into the unit square, with the same scale on both axes."""
    low, high = points.min(0), points.max(0)
    span = float((high - low).max()) or 1.0
    return ((points - (low + high) / 2) / span + 0.5).clip(0, 1).astype(np.float32)


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
