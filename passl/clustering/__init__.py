"""Assigning images to clusters: pure functions on arrays, for one process or many.

`sinkhorn` balances the scores of a batch, `kmeans` and `balanced_labels` label a whole data set in blocks of bounded
memory. None of them knows about networks, training or configuration.
"""
from passl.clustering.balanced_labels import balanced_labels
from passl.clustering.kmeans import kmeans
from passl.clustering.sinkhorn import sinkhorn

# Imported here, not on demand: each function shares its name with its module, and Python would hand out the module.
__all__ = ["balanced_labels", "kmeans", "sinkhorn"]
