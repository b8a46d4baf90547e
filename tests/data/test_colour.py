from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from passl.data.colour import BRIGHTNESS, CONTRAST, HUE, SATURATION, AffineColour, gaussian_blur, jitter, shift_hue
from tests.data.conftest import photo


def pil_hue(image: Image.Image, shift: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue, int) + int(shift * 255)) % 256
    return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value)).convert("RGB")


PIL_OPERATIONS = {
    BRIGHTNESS: lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    CONTRAST: lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    SATURATION: lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    HUE: pil_hue,
}


@pytest.fixture(scope="module")
def crop():
    return photo(7, 96, 96)


def difference(result: np.ndarray, expected: Image.Image) -> np.ndarray:
    return np.abs(result.astype(int) - np.asarray(expected, int))


@pytest.mark.parametrize("factor", [0.0, 0.2, 0.7, 1.0, 1.3, 1.8])
@pytest.mark.parametrize("operation", [BRIGHTNESS, CONTRAST, SATURATION])
def test_each_factor_matches_pil(operation, factor, crop):
    colour = AffineColour(crop)
    jitter(colour, {operation: factor}, [operation])
    expected = PIL_OPERATIONS[operation](Image.fromarray(crop), factor)
    # PIL truncates where we round, and rounds its grey values before using them: at most two levels.
    assert difference(colour.finish(), expected).max() <= 2


@pytest.mark.parametrize("shift", [-0.2, -0.07, 0.0, 0.03, 0.2, 0.5])
def test_hue_matches_pil(shift, crop):
    found = difference(shift_hue(crop, shift), pil_hue(Image.fromarray(crop), shift))
    assert found.mean() < 1.5 and np.quantile(found, 0.99) <= 6


def test_hue_of_pure_colours_turns_by_thirds():
    red, green, blue = np.eye(3, dtype=np.uint8) * 255
    result = shift_hue(np.stack([red, green, blue])[None], 1 / 3)
    np.testing.assert_allclose(result[0], [green, blue, red], atol=3)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_every_order_with_clipping_matches_pil(order, crop):
    factors = [1.7, 1.6, 1.8, 0.13]  # all of these clip, so that a lost clip shows
    colour = AffineColour(crop)
    jitter(colour, factors, order)
    expected = Image.fromarray(crop)
    for operation in order:
        expected = PIL_OPERATIONS[operation](expected, factors[operation])
    found = difference(colour.finish(), expected)
    assert found.mean() < 3 and np.quantile(found, 0.95) <= 10


@pytest.mark.parametrize("order", list(itertools.permutations((BRIGHTNESS, CONTRAST, SATURATION))))
@pytest.mark.parametrize("factors", [(0.4, 0.6, 0.3), (1.5, 0.3, 0.8), (0.5, 1.8, 1.4)])
def test_composed_operations_match_pil(order, factors, crop):
    colour = AffineColour(crop)
    jitter(colour, factors, order)
    expected = Image.fromarray(crop)
    for operation in order:
        expected = PIL_OPERATIONS[operation](expected, factors[operation])
    assert difference(colour.finish(), expected).max() <= 5


def test_the_order_of_operations_matters(crop):
    results = []
    for order in ((BRIGHTNESS, CONTRAST), (CONTRAST, BRIGHTNESS)):
        colour = AffineColour(crop)
        jitter(colour, (1.8, 0.3), order)
        results.append(colour.finish().astype(int))
    assert np.abs(results[0] - results[1]).mean() > 5


def test_grayscale_matches_pil(crop):
    colour = AffineColour(crop)
    colour.grayscale()
    assert difference(colour.finish(), Image.fromarray(crop).convert("L")).max() <= 1


@pytest.mark.parametrize("factors", [(0.5, 0.4), (1.6, 0.4), (0.5, 1.7), (1.6, 1.7)])
def test_grayscale_after_jitter_matches_pil(factors, crop):
    colour = AffineColour(crop)
    jitter(colour, factors, (BRIGHTNESS, CONTRAST))
    colour.grayscale()
    brightened = ImageEnhance.Brightness(Image.fromarray(crop)).enhance(factors[0])
    expected = ImageEnhance.Contrast(brightened).enhance(factors[1]).convert("L")
    assert difference(colour.finish(), expected).max() <= 3


def test_nothing_happens_to_the_input(crop):
    before = crop.copy()
    colour = AffineColour(crop)
    jitter(colour, (1.5, 0.5, 1.2, 0.1), (3, 2, 1, 0))
    colour.finish()
    np.testing.assert_array_equal(crop, before)


@pytest.mark.parametrize("sigma", [0.3, 0.6, 1.0, 1.5, 2.0])
def test_blur_is_a_gaussian_of_that_deviation(sigma):
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    spread = gaussian_blur(np.repeat(image[20:21], 41, axis=0), sigma)[20, :, 0].astype(float)  # a line: one dimension
    offsets = np.arange(-20, 21)
    exact = np.exp(-offsets ** 2 / (2 * sigma ** 2))
    np.testing.assert_allclose(spread, 255 * exact / exact.sum(), atol=2.5)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_is_close_to_pil(sigma, crop):
    found = difference(gaussian_blur(crop, sigma), Image.fromarray(crop).filter(ImageFilter.GaussianBlur(sigma)))
    assert found[8:-8, 8:-8].mean() < 1.0  # borders differ: we mirror, PIL repeats the last pixel


def test_tiny_blur_changes_nothing(crop):
    assert gaussian_blur(crop, 0.1) is crop and gaussian_blur(crop, 0.0) is crop
