from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from passl.data.augment.smoothing import gaussian_blur, triangle_kernel
from tests.data.conftest import photo


@pytest.mark.parametrize("square", [1.0, 1.3, 2.0, 4.0, 5.5, 9.0, 30.0])
def test_triangles_have_the_variance_that_is_asked_for(square):
    kernel = triangle_kernel(square).astype(float)
    places = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-6) and (kernel == kernel[::-1]).all()
    assert (kernel * places ** 2).sum() == pytest.approx((square - 1) / 6, abs=0.006)


def test_smoothing_neither_brightens_nor_darkens():
    flat = np.full((40, 40, 3), 200, np.uint8)
    assert all((gaussian_blur(flat, sigma) == 200).all() for sigma in np.linspace(0.25, 3.0, 100))


@pytest.mark.parametrize("sigma", [0.3, 0.6, 1.0, 1.5, 2.0])
def test_blur_is_a_gaussian_of_that_deviation(sigma):
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    spread = gaussian_blur(np.repeat(image[20:21], 41, axis=0), sigma)[20, :, 0].astype(float)  # a line: one dimension
    offsets = np.arange(-20, 21)
    exact = np.exp(-offsets ** 2 / (2 * sigma ** 2))
    np.testing.assert_allclose(spread, 255 * exact / exact.sum(), atol=3)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_is_close_to_pil(sigma):
    crop = photo(7, 96, 96)
    expected = np.asarray(Image.fromarray(crop).filter(ImageFilter.GaussianBlur(sigma)), int)
    found = np.abs(gaussian_blur(crop, sigma) - expected)
    assert found[8:-8, 8:-8].mean() < 1.0  # borders differ: we mirror, PIL repeats the last pixel


def test_tiny_blur_changes_nothing():
    crop = photo(7, 96, 96)
    assert gaussian_blur(crop, 0.1) is crop and gaussian_blur(crop, 0.0) is crop
