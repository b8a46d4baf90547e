from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from passl.data.augment.geometry import cut_out
from passl.data.augment.multicrop import MultiCrop, Photometric, finish
from passl.data.decode import read_image
from passl.data.random_streams import stream_key
from tests.data.augment.test_geometry import resized

SWAV = MultiCrop((224, 96), (2, 6), ((0.14, 1.0), (0.05, 0.14)))


def made(image, plan):
    """The crop of `image` that `plan` describes."""
    return finish(*cut_out(image, plan.box, plan.size), plan)


@pytest.mark.parametrize("height, width, factor", [
    (32, 32, 1), (375, 500, 1), (1200, 1600, 1), (1500, 2000, 2), (2900, 3900, 2), (3000, 4000, 4), (9000, 12000, 8)])
def test_large_photographs_may_be_reduced(height, width, factor):
    assert SWAV.reduction(height, width) == SWAV.reduction(width, height) == factor


def test_reduction_keeps_more_pixels_than_any_crop_needs():
    for height, width in ((640, 640), (1750, 1750), (3499, 3501), (7000, 7000)):
        factor = SWAV.reduction(height, width)
        reduced = -(-height // factor), -(-width // factor)
        plans = [plan for key in range(200) for plan in SWAV.plans(*reduced, stream_key(key))]
        assert factor == 1 or min(min(plan.box[2:]) / plan.size for plan in plans) > 1.24


def test_reduction_follows_the_smallest_crop_and_the_narrowest_box():
    assert MultiCrop((100,), (1,), ((0.25, 1.0),), (1.0, 1.0)).reduction(500, 500) == 2
    assert MultiCrop((100,), (1,), ((0.25, 1.0),), (0.5, 1.0)).reduction(500, 500) == 1
    assert MultiCrop((100,), (1,), ((0.25, 1.0),), (1.0, 2.0)).reduction(500, 500) == 1
    assert MultiCrop((100, 20), (1, 1), ((0.25, 1.0), (0.002, 1.0)), (1.0, 1.0)).reduction(500, 500) == 1


def test_reduced_photographs_give_the_same_crops(real_large_photographs):
    """Same boxes of the whole and of the reduced image, against PIL's resize of the whole one."""
    transform, differences = MultiCrop((96, 40), (2, 6), ((0.14, 1.0), (0.05, 0.14))), []
    for key, path in enumerate(real_large_photographs):
        whole, reduced = read_image(path), read_image(path, transform.reduction)
        factor = transform.reduction(*whole.shape[:2])
        assert factor > 1 and reduced.shape[0] == -(-whole.shape[0] // factor)
        for plan in transform.plans(*reduced.shape[:2], stream_key(key)):
            top, left, height, width = (factor * side for side in plan.box)
            expected = Image.fromarray(whole).resize((plan.size, plan.size), Image.BILINEAR,
                                                     (left, top, left + width, top + height))
            crop = resized(reduced, plan.box, plan.size)
            differences.append(np.abs(crop - np.asarray(expected, int)).mean())
    assert np.mean(differences) <= 0.8 and np.max(differences) <= 2.0


@pytest.fixture(scope="module")
def plans():
    return [plan for key in range(1500) for plan in SWAV.plans(375, 500, stream_key(0, 0, key))]


def test_crops_come_group_by_group(picture):
    crops = SWAV(picture, stream_key(0, 0, 0))
    assert [crop.shape for crop in crops] == [(224, 224, 3)] * 2 + [(96, 96, 3)] * 6
    assert all(crop.dtype == np.uint8 and crop.flags.c_contiguous for crop in crops)


def test_three_groups(picture):
    transform = MultiCrop((64, 32, 16), (1, 2, 3), ((0.3, 1), (0.1, 0.3), (0.05, 0.1)))
    assert [len(crop) for crop in transform(picture, 1)] == [64, 32, 32, 16, 16, 16]


@pytest.mark.parametrize("what, probability", [("flip", 0.5), ("grayscale", 0.2)])
def test_flag_frequencies(plans, what, probability):
    share = np.mean([getattr(plan, what) for plan in plans])
    assert abs(share - probability) < 4 * (probability * (1 - probability) / len(plans)) ** 0.5


def test_blur_and_jitter_frequencies_and_ranges(plans):
    sigmas = np.array([plan.blur_sigma for plan in plans])
    assert abs((sigmas > 0).mean() - 0.5) < 0.02
    used = sigmas[sigmas > 0]
    assert 0.1 <= used.min() < 0.11 and 1.99 < used.max() <= 2.0 and abs(used.mean() - 1.05) < 0.02
    assert abs(np.mean([len(plan.jitter_order) > 0 for plan in plans]) - 0.8) < 0.015


def test_jitter_orders_are_all_equally_likely(plans):
    jittered = [plan.jitter_order for plan in plans if plan.jitter_order]
    orders, counts = np.unique(jittered, axis=0, return_counts=True)
    assert len(orders) == 24
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 49.7  # chi-squared, 23 degrees, p = 0.001


def test_factor_ranges(plans):
    factors = np.array([plan.factors for plan in plans if plan.jitter_order])
    np.testing.assert_allclose(factors.min(axis=0), [0.2, 0.2, 0.2, -0.2], atol=0.002)
    np.testing.assert_allclose(factors.max(axis=0), [1.8, 1.8, 1.8, 0.2], atol=0.002)
    np.testing.assert_allclose(factors.mean(axis=0), [1, 1, 1, 0], atol=0.02)


def test_decisions_are_independent_of_each_other(plans):
    small = [plan for plan in plans if plan.size == 96]
    decisions = [[plan.flip, plan.grayscale, plan.blur_sigma > 0, len(plan.jitter_order) > 0, *plan.box[:2]]
                 for plan in small]
    strengths = [[*plan.factors, plan.flip, plan.grayscale, plan.blur_sigma, *plan.box[:2]]
                 for plan in small if plan.jitter_order]
    for table in (np.array(decisions, float), np.array(strengths, float)):
        correlation = np.corrcoef(table.T) - np.eye(table.shape[1])
        assert np.abs(correlation).max() < 4.5 / len(table) ** 0.5


def test_area_shares_per_group(plans):
    for size, low, high in ((224, 0.14, 1.0), (96, 0.05, 0.14)):
        shares = np.array([plan.box[2] * plan.box[3] / (375 * 500) for plan in plans if plan.size == size])
        assert low - 0.003 <= shares.min() < low + 0.01 and shares.max() <= high + 0.002


def test_same_key_same_pixels_and_other_key_other_pixels(picture):
    first, again, other = (SWAV(picture, stream_key(0, epoch, 4)) for epoch in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again))
    assert not any((a == b).all() for a, b in zip(first, other))


def test_threads_do_not_disturb_each_other(picture):
    expected = [SWAV(picture, key) for key in range(24)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda key: SWAV(picture, key), range(24)))
    assert all((a == b).all() for one, other in zip(expected, found) for a, b in zip(one, other))


def test_crops_of_one_image_differ(picture):
    crops = SWAV(picture, 3)
    assert all((crops[a] != crops[b]).any() for a in range(2, 8) for b in range(2, a))


def test_everything_off_leaves_a_plain_crop(picture):
    off = Photometric(0.0, 0.0, grayscale_probability=0.0, blur_probability=0.0)
    transform = MultiCrop((300,), (1,), ((1.0, 1.0),), (4 / 3, 4 / 3), off)
    plan, = transform.plans(300, 400, 0)
    assert plan.box == (0, 0, 300, 400) and not plan.flip and not plan.jitter_order and plan.blur_sigma == 0
    before = picture.copy()
    mirrored = made(picture, plan._replace(flip=True))
    np.testing.assert_array_equal(mirrored[:, ::-1], made(picture, plan))
    np.testing.assert_array_equal(picture, before)


def test_grey_crops_have_three_equal_channels(picture):
    plan = SWAV.plans(300, 400, 0)[0]._replace(
        grayscale=True, blur_sigma=1.5, jitter_order=(0, 1, 2, 3), factors=(1.2, 0.8, 1.5, 0.1))
    crop = made(picture, plan)
    assert crop.shape == (224, 224, 3) and (crop == crop[..., :1]).all()
