from __future__ import annotations

import colorsys
import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from passl.data.augment.colour import BRIGHTNESS, CONTRAST, HUE, SATURATION, jitter, shift_hue
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
    result = jitter(crop, {operation: factor}, [operation])
    expected = PIL_OPERATIONS[operation](Image.fromarray(crop), factor)
    # PIL truncates where we round, and rounds its grey values before using them: at most two levels.
    assert difference(result, expected).max() <= 2


@pytest.mark.parametrize("shift", [-0.2, -0.07, 0.0, 0.03, 0.2, 0.5])
def test_hue_matches_pil(shift, crop):
    found = difference(shift_hue(crop, shift), pil_hue(Image.fromarray(crop), shift))
    assert found.mean() < 1.5 and np.quantile(found, 0.99) <= 6


def test_hue_of_pure_colours_turns_by_thirds():
    red, green, blue = np.eye(3, dtype=np.uint8) * 255
    result = shift_hue(np.stack([red, green, blue])[None], 1 / 3)
    np.testing.assert_allclose(result[0], [green, blue, red], atol=3)


@pytest.mark.parametrize("shift", [-0.5, -0.41, -0.2, 0.2, 0.41, 0.5])
def test_hues_turn_through_the_whole_circle(shift):
    hues = np.arange(360) / 360
    circle, expected = (np.array([colorsys.hsv_to_rgb((hue + turn) % 1, 0.9, 0.8) for hue in hues])
                        for turn in (0, shift))
    result = shift_hue((circle * 255).round().astype(np.uint8)[None], shift)[0]
    assert np.abs(result - 255 * expected).max() < 9  # two degrees are 6 of 0.8 x 0.9 x 255 grey levels


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_every_order_without_clipping_matches_pil(order, crop):
    factors = [0.6, 0.7, 0.8, -0.13]
    expected = Image.fromarray(crop)
    for operation in order:
        expected = PIL_OPERATIONS[operation](expected, factors[operation])
    found = difference(jitter(crop, factors, order), expected)
    assert found.mean() < 1.5 and np.quantile(found, 0.99) <= 6


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_every_order_with_clipping_matches_pil(order, crop):
    factors = [1.7, 1.6, 1.8, 0.13]  # all of these clip, so that a lost clip shows
    expected = Image.fromarray(crop)
    for operation in order:
        expected = PIL_OPERATIONS[operation](expected, factors[operation])
    found = difference(jitter(crop, factors, order), expected)
    assert found.mean() < 3 and np.quantile(found, 0.95) <= 10


@pytest.mark.parametrize("order", list(itertools.permutations((BRIGHTNESS, CONTRAST, SATURATION))))
@pytest.mark.parametrize("factors", [(0.4, 0.6, 0.3), (1.5, 0.3, 0.8), (0.5, 1.8, 1.4)])
def test_composed_operations_match_pil(order, factors, crop):
    expected = Image.fromarray(crop)
    for operation in order:
        expected = PIL_OPERATIONS[operation](expected, factors[operation])
    assert difference(jitter(crop, factors, order), expected).max() <= 5


def test_the_order_of_operations_matters(crop):
    results = []
    for order in ((BRIGHTNESS, CONTRAST), (CONTRAST, BRIGHTNESS)):
        results.append(jitter(crop, (1.8, 0.3), order).astype(int))
    assert np.abs(results[0] - results[1]).mean() > 5


def test_grayscale_matches_pil(crop):
    result = jitter(crop, (), (), grayscale=True)
    assert difference(result, Image.fromarray(crop).convert("L")).max() <= 1


@pytest.mark.parametrize("factors", [(0.5, 0.4), (1.6, 0.4), (0.5, 1.7), (1.6, 1.7)])
def test_grayscale_after_jitter_matches_pil(factors, crop):
    result = jitter(crop, factors, (BRIGHTNESS, CONTRAST), grayscale=True)
    brightened = ImageEnhance.Brightness(Image.fromarray(crop)).enhance(factors[0])
    expected = ImageEnhance.Contrast(brightened).enhance(factors[1]).convert("L")
    assert difference(result, expected).max() <= 3


def test_nothing_happens_to_the_input(crop):
    before = crop.copy()
    jitter(crop, (1.5, 0.5, 1.2, 0.1), (3, 2, 1, 0))
    np.testing.assert_array_equal(crop, before)
