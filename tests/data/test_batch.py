from __future__ import annotations

import numpy as np
import paddle
import pytest

from passl.data.batch import Normalizer, crop_grid


def test_equals_the_definition():
    pixels = np.random.RandomState(0).randint(0, 256, (2, 5, 4, 3)).astype(np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)
    result = Normalizer(mean, std)(paddle.to_tensor(pixels))
    expected = ((pixels / 255.0 - mean) / std).transpose(0, 3, 1, 2)
    assert list(result.shape) == [2, 3, 5, 4] and result.dtype == paddle.float32
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mean, std", [((0.5, 0.5), (1, 1, 1)), ((0, 0, 0), (1, 0, 1))])
def test_bad_constants(mean, std):
    with pytest.raises(ValueError, match="three means and three positive deviations"):
        Normalizer(mean, std)


def test_crops_are_where_they_belong():
    crops = [[np.full((size, size, 3), 10 * row + column, np.uint8) for column, size in enumerate((8, 8, 4))]
             for row in range(2)]
    grid = crop_grid(crops)
    assert grid.shape == (18, 24, 3) and grid.dtype == np.uint8
    assert (grid[:8, :8] == 0).all() and (grid[:8, 10:18] == 1).all() and (grid[10:14, 20:24] == 12).all()
    assert (grid[14:, 20:24] == 255).all() and (grid[8:10] == 255).all()
