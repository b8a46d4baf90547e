from __future__ import annotations

import numpy as np

from passl.data.batch import crop_grid


def test_crops_are_where_they_belong():
    crops = [[np.full((size, size, 3), 10 * row + column, np.uint8) for column, size in enumerate((8, 8, 4))]
             for row in range(2)]
    grid = crop_grid(crops)
    assert grid.shape == (18, 24, 3) and grid.dtype == np.uint8
    assert (grid[:8, :8] == 0).all() and (grid[:8, 10:18] == 1).all() and (grid[10:14, 20:24] == 12).all()
    assert (grid[14:, 20:24] == 255).all() and (grid[8:10] == 255).all()
