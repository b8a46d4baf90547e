"""How well clusters found without labels agree with the classes of a labelled set."""
from __future__ import annotations

from typing import Dict

import numpy as np

from passl.arrays import to_numpy
from passl.errors import UserError


def contingency(assignments, labels) -> np.ndarray:
    """Counts int64 [clusters, classes] of images, for the clusters and classes that occur among labelled images.

    assignments: int [N], cluster of each image. labels: int [N], class of each image; -1 leaves the image out.
    ValueError when they do not fit or no labelled image is left.
    """
    assignments, labels = to_numpy(assignments), to_numpy(labels)
    for name, values in (("assignments", assignments), ("labels", labels)):
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise UserError(f"{name} must be integers [N], got {values.dtype} {list(values.shape)}")
    if len(assignments) != len(labels):
        raise UserError(f"{len(assignments)} assignments for {len(labels)} labels")
    if (assignments < 0).any():
        raise UserError(f"{int((assignments < 0).sum())} images have no cluster (a negative assignment)")
    labelled = labels >= 0
    if not labelled.any():
        raise UserError("no image has a label: agreement with classes is not defined")
    from sklearn.metrics.cluster import contingency_matrix

    return contingency_matrix(assignments[labelled], labels[labelled])  # of "classes" and "clusters" in its words


def cluster_metrics(assignments, labels) -> Dict[str, float]:
    """Agreement of a clustering with classes, as SeLa and its successors report it (there in per cent).

    `nmi` and `ami` are normalised and chance-adjusted mutual information with arithmetic averaging, `ari` the adjusted
    Rand index. `hungarian_accuracy` matches each class with at most one cluster and each cluster with at most one
    class, so that with more clusters than classes the images of the clusters left over count as wrong;
    `majority_accuracy` gives each cluster its most frequent class (many to one; also called purity), which rises with
    the number of clusters. `mean_cluster_purity` is the share of the most frequent class, averaged over clusters.
    NMI is far above zero by chance alone for many clusters (0.55 for 3000 random clusters of ImageNet's validation
    set), AMI and ARI are zero.

    Arguments and errors as in `contingency`; needs scikit-learn and SciPy. Also returns the numbers of `images`,
    `clusters` (with an image) and `classes`.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score

    table = contingency(assignments, labels)
    labelled = to_numpy(labels) >= 0
    assignments, labels = to_numpy(assignments)[labelled], to_numpy(labels)[labelled]
    images = int(table.sum())
    matched = table[linear_sum_assignment(table, maximize=True)].sum()
    return {
        "images": images,
        "clusters": table.shape[0],
        "classes": table.shape[1],
        "nmi": float(normalized_mutual_info_score(labels, assignments)),
        "ami": float(adjusted_mutual_info_score(labels, assignments)),
        "ari": float(adjusted_rand_score(labels, assignments)),
        "hungarian_accuracy": float(matched / images),
        "majority_accuracy": float(table.max(1).sum() / images),
        "mean_cluster_purity": float((table.max(1) / table.sum(1)).mean()),
    }
