"""The crops of a batch as one picture."""
from __future__ import annotations

from typing import Sequence

import numpy as np

_GAP, _BACKGROUND = 2, 255


def crop_grid(crops_of_images: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """One row per image, one column per crop, crops at their own size: uint8 [H, W, 3].

    `crops_of_images` holds for each image its list of uint8 [S, S, 3] crops. From a batch:
    `crop_grid([[crops[i] for crops in batch["crops"]] for i in range(8)])`.
    """
    widths = [crop.shape[1] for crop in crops_of_images[0]]
    row_height = max(crop.shape[0] for crop in crops_of_images[0])
    grid = np.full((len(crops_of_images) * (row_height + _GAP) - _GAP, sum(widths) + _GAP * (len(widths) - 1), 3),
                   _BACKGROUND, np.uint8)
    for row, crops in enumerate(crops_of_images):
        top, left = row * (row_height + _GAP), 0
        for crop in crops:
            grid[top:top + crop.shape[0], left:left + crop.shape[1]] = crop
            left += crop.shape[1] + _GAP
    return grid
