"""Where a random crop lies, and how it is brought to its output size."""
from __future__ import annotations

import math
from typing import Callable, Tuple

import cv2
import numpy as np

from passl.data.augment.smoothing import triangle_kernel

_TRIES = 10


def random_box(draw: Callable[[], float], height: int, width: int, scale: Tuple[float, float],
               log_ratio: Tuple[float, float]) -> Tuple[int, int, int, int]:
    """Box of a random resized crop: (top, left, height, width).

    Area is uniform in `scale` (share of the image), aspect ratio log-uniform; the first of ten tries that fits is
    placed uniformly. When none fits the largest centred box within the ratio limits is used (torchvision's rule).

    draw: returns a number uniform in [0, 1); log_ratio: logarithms of the smallest and largest width / height.
    """
    smallest, area_range = scale[0] * height * width, (scale[1] - scale[0]) * height * width
    log_smallest, log_range = log_ratio[0], log_ratio[1] - log_ratio[0]
    for _ in range(_TRIES):
        side = math.sqrt(smallest + area_range * draw())
        stretch = math.exp(0.5 * (log_smallest + log_range * draw()))
        box_width, box_height = round(side * stretch), round(side / stretch)
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(draw() * (height - box_height + 1))
            left = int(draw() * (width - box_width + 1))
            return top, left, box_height, box_width
    return _central_box(height, width, math.exp(log_ratio[0]), math.exp(log_ratio[1]))


def _central_box(height: int, width: int, smallest_ratio: float, largest_ratio: float) -> Tuple[int, int, int, int]:
    box_height, box_width = height, width
    if width / height < smallest_ratio:
        box_height = int(round(width / smallest_ratio))
    elif width / height > largest_ratio:
        box_width = int(round(height * largest_ratio))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def cut_out(image: np.ndarray, box, size: int) -> Tuple[np.ndarray, Tuple[float, float]]:
    """Crop `box` (top, left, height, width) of a uint8 [H, W, 3] image at [size, size, 3], and the smoothing it lacks.

    Approximates PIL's antialiased bilinear filter, a triangle that widens with the reduction factor s and so has
    variance s^2 / 6, at a fraction of its cost: OpenCV's plain bilinear interpolation supplies 1/6, and a small kernel
    the remaining (s^2 - 1) / 6, before the reduction, or, for s up to 2, after it, on fewer pixels. The latter is what
    the crop lacks: variances along x and y in pixels of the crop, squared, for `gaussian_blur`, which adds them to a
    blur of its own.
    """
    top, left, height, width = box
    region = image[top:top + height, left:left + width]
    down, across = height * height / (size * size), width * width / (size * size)  # s^2 along each side
    if down <= 4.0 and across <= 4.0:
        # (s^2 - 1) / 6 in pixels of the image is (1 - 1 / s^2) / 6 in pixels of the crop. Half as much again comes
        # closest to PIL at every s from 1 to 2: at these, interpolation takes in fewer pixels than PIL does.
        missing = (0.25 - 0.25 / across if across > 1.0 else 0.0, 0.25 - 0.25 / down if down > 1.0 else 0.0)
        return cv2.resize(region, (size, size)), missing
    averaged = 0.0  # variance that halving has already added
    while min(height, width) > _HALVE_ABOVE * size:  # photographs of several megapixels
        height, width = (height + 1) // 2, (width + 1) // 2
        region = cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA)
        averaged = averaged / 4 + 1 / 16
        down, across = (height / size) ** 2 - 6 * averaged, (width / size) ** 2 - 6 * averaged
    region = cv2.sepFilter2D(region, -1, triangle_kernel(max(1.0, across)), triangle_kernel(max(1.0, down)))
    return cv2.resize(region, (size, size)), (0.0, 0.0)


_HALVE_ABOVE = 5
