"""Smoothing of uint8 images by separable kernels: for antialiasing and for the random blur."""
from __future__ import annotations

import functools
import math
from typing import Tuple

import cv2
import numpy as np


def gaussian_blur(image: np.ndarray, sigma: float, missing: Tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Gaussian of standard deviation `sigma` pixels, cut at two and a half (PIL approximates it by box filters).

    missing: variances along x and y, pixels squared, of the smoothing that the image still lacks
    (`geometry.cut_out`): variances add, so one pass does both. One that would hardly be seen is left out.
    """
    across, down = missing
    if sigma >= _THREE_TAPS_BELOW:
        kernel = _gaussian_kernel(round(_SIGMA_STEPS * math.sqrt(sigma * sigma + 0.5 * (across + down))))
        return cv2.sepFilter2D(image, -1, kernel, kernel)
    if sigma > _ONE_TAP_BELOW:
        weight = math.exp(-0.5 / (sigma * sigma))
        own = 2.0 * weight / (1.0 + 2.0 * weight)  # variance of the Gaussian at -1, 0 and 1
        across, down = across + own, down + own
    if across + down < _SEEN_ABOVE:
        return image
    return cv2.sepFilter2D(image, -1, _three_taps(round(_VARIANCE_STEPS * across)),
                           _three_taps(round(_VARIANCE_STEPS * down)))


_ONE_TAP_BELOW = 0.25  # the neighbours' weight is then below 1/2000 each
_THREE_TAPS_BELOW = 0.5  # and here that of the neighbours' neighbours
_SEEN_ABOVE = 0.15  # what a reduction by 1.2 lacks: a third of a grey level on average
_SIGMA_STEPS = 64  # kernels are kept for deviations in steps of 1/64 pixel
_VARIANCE_STEPS = 256


@functools.lru_cache(maxsize=256)
def _gaussian_kernel(steps: int) -> np.ndarray:
    sigma = steps / _SIGMA_STEPS
    return cv2.getGaussianKernel(2 * round(2.5 * sigma) + 1, sigma, cv2.CV_32F)


@functools.lru_cache(maxsize=256)
def _three_taps(steps: int) -> np.ndarray:
    variance = steps / _VARIANCE_STEPS
    return np.array([variance / 2, 1 - variance, variance / 2], np.float32)


def triangle_kernel(square: float) -> np.ndarray:
    """Symmetric float32 kernel of variance (square - 1) / 6, square >= 1.

    A discrete triangle over 2n - 1 pixels has variance (n^2 - 1) / 6; others are mixed from those of n and n + 1.
    """
    return _triangle_mixture(round(_SQUARE_STEPS * square))


_SQUARE_STEPS = 16  # kernels are kept for squares in steps of 1/16


@functools.lru_cache(maxsize=1024)
def _triangle_mixture(steps: int) -> np.ndarray:
    square = steps / _SQUARE_STEPS
    n = math.isqrt(int(square))
    share = (square - n * n) / (2 * n + 1)
    distance = np.abs(np.arange(-n, n + 1))
    narrow, wide = np.maximum(0, n - distance) / n ** 2, (n + 1 - distance) / (n + 1) ** 2
    return ((1 - share) * narrow + share * wide).astype(np.float32)
