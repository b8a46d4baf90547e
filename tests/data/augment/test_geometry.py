from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from passl.data.augment.geometry import cut_out, random_box
from passl.data.augment.multicrop import MultiCrop
from passl.data.augment.smoothing import gaussian_blur
from passl.data.random_streams import stream_key, uniform_draws
from tests.data.conftest import photo

LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))


def resized(image, box, size):
    crop, missing = cut_out(image, box, size)
    return gaussian_blur(crop, 0.0, missing)


def boxes(count, height, width, scale, log_ratio=LOG_RATIO):
    return np.array([random_box(uniform_draws(stream_key(1, key)), height, width, scale, log_ratio)
                     for key in range(count)])


def test_area_and_ratio_have_the_stated_distributions():
    found = boxes(4000, 1000, 1000, (0.05, 0.14))  # every try fits in a square this large
    area = found[:, 2] * found[:, 3] / 1e6
    log_ratio = np.log(found[:, 3] / found[:, 2])
    assert abs(area.mean() - 0.095) < 0.002 and area.min() > 0.0495 and area.max() < 0.1405
    assert abs(log_ratio.mean()) < 0.01 and abs(log_ratio.std() - (LOG_RATIO[1] - LOG_RATIO[0]) / 12 ** 0.5) < 0.005
    quartiles = np.quantile(area, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, [0.0725, 0.095, 0.1175], atol=0.003)


def test_boxes_lie_inside_and_reach_every_border():
    found = boxes(3000, 37, 53, (0.14, 1.0))
    assert (found[:, :2] >= 0).all() and (found[:, 2:] > 0).all()
    assert (found[:, 0] + found[:, 2] <= 37).all() and (found[:, 1] + found[:, 3] <= 53).all()
    assert found[:, 0].min() == found[:, 1].min() == 0
    assert (found[:, 0] + found[:, 2]).max() == 37 and (found[:, 1] + found[:, 3]).max() == 53


@pytest.mark.parametrize("height, width, expected", [(100, 10, (43, 0, 13, 10)), (10, 100, (0, 43, 10, 13)),
                                                     (10, 10, (0, 0, 10, 10))])
def test_fallback_is_the_largest_centred_box(height, width, expected):
    # A share of 1 with ratio at its limit never fits, so all ten tries fail.
    assert random_box(lambda: 0.999999, height, width, (1.0, 1.0), LOG_RATIO) == expected


def test_one_pixel_image():
    assert (boxes(50, 1, 1, (0.05, 0.14))[:, 2:] == 1).all()


def pil_resize(image, box, size):
    top, left, height, width = box
    crop = Image.fromarray(image[top:top + height, left:left + width])
    return np.asarray(crop.resize((size, size), Image.BILINEAR), int)


@pytest.fixture(scope="module")
def large_picture():
    return photo(4, 520, 520)


@pytest.mark.parametrize("reduction", [0.5, 0.8, 1.0, 1.1, 1.3, 1.5, 1.75, 2.0, 2.3, 2.7, 3.5, 4.4, 5.5, 7.3])
@pytest.mark.parametrize("shape", [1.0, 0.75])
def test_resize_is_close_to_pil(reduction, shape, large_picture):
    size = 64
    box = (3, 4, round(reduction * size), round(reduction * size * shape))
    result = resized(large_picture, box, size)
    assert result.shape == (size, size, 3) and result.dtype == np.uint8
    assert np.abs(result - pil_resize(large_picture, box, size)).mean() <= 2.0


def test_resize_is_close_to_pil_on_photographs(real_photographs):
    transform = MultiCrop((224, 96), (2, 6), ((0.14, 1.0), (0.05, 0.14)))
    differences = []
    for key, image in enumerate(real_photographs):
        for plan in transform.plans(*image.shape[:2], stream_key(key)):
            expected = pil_resize(image, plan.box, plan.size)
            differences.append(np.abs(resized(image, plan.box, plan.size) - expected).mean())
    assert np.mean(differences) <= 1.2 and np.quantile(differences, 0.9) <= 2.0


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.3, 0.45, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("reduction", [0.8, 1.2, 1.6, 2.0, 3.0])
def test_smoothing_and_blur_are_one_pass(sigma, reduction, large_picture):
    box = (3, 4, round(reduction * 96), round(reduction * 72))
    crop, missing = cut_out(large_picture, box, 96)
    expected = Image.fromarray(pil_resize(large_picture, box, 96).astype(np.uint8))
    expected = np.asarray(expected.filter(ImageFilter.GaussianBlur(sigma)), int)
    assert np.abs(gaussian_blur(crop, sigma, missing) - expected)[4:-4, 4:-4].mean() <= 1.7
    for lacks, along in zip(missing, (0.75 * reduction, reduction)):
        assert (lacks > 0) == (1 < along and reduction <= 2) and lacks < 0.2


def test_a_slight_reduction_is_not_smoothed(large_picture):
    for size, smoothed in ((100, False), (84, False), (80, True)):
        crop, missing = cut_out(large_picture, (0, 0, 100, 100), size)
        assert (gaussian_blur(crop, 0.0, missing) is not crop) == smoothed


def test_resize_suppresses_what_the_output_cannot_show():
    checkers = np.indices((200, 200)).sum(axis=0) % 2 * 255
    image = np.repeat(checkers[..., None], 3, axis=2).astype(np.uint8)
    result = resized(image, (0, 0, 200, 200), 100)
    assert np.abs(result.astype(int) - 127).max() <= 2


def test_unscaled_box_is_copied_exactly(picture):
    np.testing.assert_array_equal(resized(picture, (20, 30, 96, 96), 96), picture[20:116, 30:126])
