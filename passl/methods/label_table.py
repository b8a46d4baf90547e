"""Tables of labels of a whole data set, which methods keep: clusters it can fill, and what a checkpoint holds of it."""
from __future__ import annotations

from typing import List

import numpy as np
import paddle

from passl.errors import UserError

FEW_IMAGES = 5  # fewer for a cluster are worth a warning; ImageNet has 427


def sparse_clusters_advice(largest: int, images: int) -> List[str]:
    """A warning when `largest`, the most clusters of a head, leaves few of the `images` for each."""
    if images >= FEW_IMAGES * largest:
        return []
    return [f"Model.backbone.nmb_prototypes {largest} leaves {images / largest:.1f} of the {images} training images "
            "for a cluster, so that labels say little but which image it is; about 10 clusters per expected class are "
            f"usual, e.g. {max(2, images // 50)}"]


def labels_of_checkpoint(saved: np.ndarray, labels: paddle.Tensor) -> np.ndarray:
    """`saved`, integers [T heads, N images], when it is a table of as many as this run's `labels`; else ValueError."""
    saved = np.asarray(saved)
    if saved.shape != tuple(labels.shape):
        raise UserError(f"the checkpoint labels {saved.shape[1]} images for {saved.shape[0]} heads, this run has "
                        f"{labels.shape[1]} and {labels.shape[0]}: resume with the data it was started with, or start "
                        "a new run from its weights with Global.pretrained_model")
    return saved
