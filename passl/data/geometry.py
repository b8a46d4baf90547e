"""Where a random crop lies, and how it is brought to its output size."""
from __future__ import annotations

import functools
import math
from typing import Sequence, Tuple

import cv2
import numpy as np

_TRIES = 10
BOX_DRAWS = 2 * _TRIES + 2


def random_box(draws: Sequence[float], height: int, width: int, scale: Tuple[float, float],
               log_ratio: Tuple[float, float]) -> Tuple[int, int, int, int]:
    """Box of a random resized crop: (top, left, height, width).

    Area is uniform in `scale` (share of the image), aspect ratio log-uniform; the first of ten tries that fits is
    placed uniformly. When none fits the largest centred box within the ratio limits is used (torchvision's rule).

    draws: BOX_DRAWS numbers uniform in [0, 1); log_ratio: logarithms of the smallest and largest width / height.
    """
    smallest, area_range = scale[0] * height * width, (scale[1] - scale[0]) * height * width
    log_smallest, log_range = log_ratio[0], log_ratio[1] - log_ratio[0]
    for attempt in range(0, 2 * _TRIES, 2):
        side = math.sqrt(smallest + area_range * draws[attempt])
        stretch = math.exp(0.5 * (log_smallest + log_range * draws[attempt + 1]))
        box_width, box_height = round(side * stretch), round(side / stretch)
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(draws[2 * _TRIES] * (height - box_height + 1))
            left = int(draws[2 * _TRIES + 1] * (width - box_width + 1))
            return top, left, box_height, box_width
    return _central_box(height, width, math.exp(log_ratio[0]), math.exp(log_ratio[1]))


def _central_box(height: int, width: int, smallest_ratio: float, largest_ratio: float) -> Tuple[int, int, int, int]:
    box_height, box_width = height, width
    if width / height < smallest_ratio:
        box_height = int(round(width / smallest_ratio))
    elif width / height > largest_ratio:
        box_width = int(round(height * largest_ratio))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def resize_box(image: np.ndarray, box, size: int) -> np.ndarray:
    """Crop `box` (top, left, height, width) of a uint8 [H, W, 3] image and resize it to [size, size, 3].

    Approximates PIL's antialiased bilinear filter, a triangle that widens with the reduction factor s and so has
    variance s^2 / 6, at a fraction of its cost: the region is smoothed by a kernel of variance (s^2 - 1) / 6, and
    OpenCV's plain bilinear interpolation supplies the remaining 1/6.
    """
    region, averaged = _region(image, box, size)
    height, width = region.shape[:2]
    if max(height, width) > _SMOOTH_ABOVE * size:
        region = cv2.sepFilter2D(region, -1, _smoothing(width / size, averaged), _smoothing(height / size, averaged))
    return cv2.resize(region, (size, size), interpolation=cv2.INTER_LINEAR)


def resize_box_before_blur(image: np.ndarray, box, size: int, sigma: float) -> Tuple[np.ndarray, float]:
    """The crop, and the deviation of the blur that is still to come, for a crop that is blurred by `sigma` later.

    A blur of half a pixel or more hides what the smoothing of `resize_box` would remove, and runs on fewer pixels.
    Variances add, so that of the smoothing is handed on. On photographs the mean difference to PIL's resize and the
    same blur is 0.5 to 0.8 grey levels.
    """
    _, _, height, width = box
    if sigma < 0.5 or max(height, width) > 2 * size:
        return resize_box(image, box, size), sigma
    region, _ = _region(image, box, size)
    # (s^2 - 1) / 6 in pixels of the image is (1 - 1/s^2) / 6 in pixels of the crop; the mean of both axes.
    pending = sum(max(0.0, 1.0 - (size / side) ** 2) for side in (height, width)) / 12
    return cv2.resize(region, (size, size), interpolation=cv2.INTER_LINEAR), math.sqrt(sigma * sigma + pending)


_HALVE_ABOVE = 5
_SMOOTH_ABOVE = 1.15  # below it the smoothing changes well under one grey level


def _region(image: np.ndarray, box, size: int) -> Tuple[np.ndarray, float]:
    """The pixels of `box`, halved by averaging while far too large, and the variance that the averages have spent."""
    top, left, height, width = box
    region, averaged = image[top:top + height, left:left + width], 0.0
    while min(height, width) > _HALVE_ABOVE * size:  # photographs of several megapixels
        height, width = (height + 1) // 2, (width + 1) // 2
        region = cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA)
        averaged = averaged / 4 + 1 / 16
    return region, averaged


def _smoothing(reduction: float, averaged: float) -> np.ndarray:
    """Kernel of variance (reduction^2 - 1) / 6 - averaged, float32."""
    return _triangle_mixture(round(_STEPS * max(1.0, reduction * reduction - 6 * averaged)))


_STEPS = 64  # kernels are kept for squared reductions in steps of 1/64


@functools.lru_cache(maxsize=4096)
def _triangle_mixture(square_steps: int) -> np.ndarray:
    """A discrete triangle over 2n - 1 pixels has variance (n^2 - 1) / 6; others are mixed from those of n and n + 1."""
    square = square_steps / _STEPS
    n = math.isqrt(int(square))
    share = (square - n * n) / (2 * n + 1)
    distance = np.abs(np.arange(-n, n + 1))
    narrow, wide = np.maximum(0, n - distance) / n ** 2, (n + 1 - distance) / (n + 1) ** 2
    return ((1 - share) * narrow + share * wide).astype(np.float32)
