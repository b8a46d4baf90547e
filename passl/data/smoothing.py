"""Smoothing of uint8 images by separable kernels: for antialiasing and for the random blur."""
from __future__ import annotations

import functools
import math

import cv2
import numpy as np


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian of standard deviation `sigma` pixels, cut at three of them (PIL approximates it by box filters)."""
    if sigma < 0.25:  # the neighbours' weight is below 1/255
        return image
    kernel = _gaussian_kernel(round(_SIGMA_STEPS * sigma))
    return cv2.sepFilter2D(image, -1, kernel, kernel)


_SIGMA_STEPS = 64  # kernels are kept for deviations in steps of 1/64 pixel


@functools.lru_cache(maxsize=256)
def _gaussian_kernel(steps: int) -> np.ndarray:
    sigma = steps / _SIGMA_STEPS
    return cv2.getGaussianKernel(2 * round(3.0 * sigma) + 1, sigma, cv2.CV_32F)


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
