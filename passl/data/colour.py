"""Photometric operations of the multi-crop transform on uint8 RGB crops.

Brightness, contrast, saturation and grayscale are all of the form  a * x + g * grey(x) + c  with three scalars, and
the form is closed under composition because grey() is linear and its weights sum to one. An operation with a factor
of at most one cannot leave 0..255, so it needs no clipping and is composed on paper with the next one; only what
clips is carried out. The reference clips and truncates to uint8 after every operation; here values round once
per pass, which differs by about one grey level.
"""
from __future__ import annotations

import functools
import math

import cv2
import numpy as np

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's convert("L")

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


class AffineColour:
    """Pending colour operations on one crop; `finish` returns the pixels (grey [S, S] after `grayscale`)."""

    __slots__ = ("image", "own", "grey", "offset", "clips", "mean")

    def __init__(self, image: np.ndarray):
        self.image = image
        self.mean = None  # mean grey value of `image`, computed when contrast asks for it
        self._reset()

    def _reset(self) -> None:
        self.own, self.grey, self.offset, self.clips = 1.0, 0.0, 0.0, False

    def _before(self, factor: float) -> None:
        if self.clips:
            self._apply()
        self.clips = factor > 1.0

    def _apply(self) -> None:
        if self.own == 1.0 and self.grey == 0.0 and self.offset == 0.0:
            return
        own, offset = self.own, self.offset
        red, green, blue = (self.grey * weight for weight in GREY_WEIGHTS)
        # A flat list: NumPy takes three times as long over nested tuples.
        matrix = [own + red, green, blue, offset, red, own + green, blue, offset, red, green, own + blue, offset]
        self.image = cv2.transform(self.image, np.array(matrix, np.float32).reshape(3, 4))
        self.mean = None
        self._reset()

    def brightness(self, factor: float) -> None:
        """x -> factor * x."""
        self._before(factor)
        self.own, self.grey, self.offset = factor * self.own, factor * self.grey, factor * self.offset

    def contrast(self, factor: float) -> None:
        """x -> factor * x + (1 - factor) * mean, with the mean grey value of the whole crop, rounded (as PIL)."""
        self._before(factor)
        if self.mean is None:
            red, green, blue = cv2.mean(self.image)[:3]
            self.mean = GREY_WEIGHTS[0] * red + GREY_WEIGHTS[1] * green + GREY_WEIGHTS[2] * blue
        mean = math.floor((self.own + self.grey) * self.mean + self.offset + 0.5)
        self.own, self.grey = factor * self.own, factor * self.grey
        self.offset = factor * self.offset + (1.0 - factor) * mean

    def saturation(self, factor: float) -> None:
        """x -> factor * x + (1 - factor) * grey(x)."""
        self._before(factor)
        self.grey = factor * self.grey + (1.0 - factor) * (self.own + self.grey)
        self.own = factor * self.own

    def hue(self, shift: float) -> None:
        """Turn the hue by `shift` of the whole circle, in 8-bit HSV."""
        self._apply()
        self.image = shift_hue(self.image, shift)
        self.mean = None

    def grayscale(self) -> None:
        """Replace the three channels by one grey channel [S, S]."""
        if self.clips:
            self._apply()
        total, offset = self.own + self.grey, self.offset
        self.image = cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY)
        if total != 1.0 or offset != 0.0:
            self.image = cv2.addWeighted(self.image, total, self.image, 0.0, offset)
        self._reset()

    def finish(self) -> np.ndarray:
        self._apply()
        return self.image


def shift_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """uint8 RGB image with its hue turned by `shift` (share of the circle, -0.5 .. 0.5)."""
    steps = round(shift * 256) & 255
    if steps == 0:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    # One flat addition that wraps at 256; a strided one over the hue channel takes five times as long.
    np.add(hsv, _hue_row(steps, image.shape[1]), out=hsv)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, hsv)


@functools.lru_cache(maxsize=1024)
def _hue_row(steps: int, width: int) -> np.ndarray:
    """What is added to a row of HSV pixels: `steps` to the hue, nothing to the rest; uint8 [1, width, 3]."""
    row = np.zeros((1, width, 3), np.uint8)
    row[..., 0] = steps
    return row


def jitter(colour: AffineColour, factors, order) -> None:
    """Brightness, contrast, saturation and hue with `factors`, in `order` (indices of the four)."""
    for operation in order:
        if operation == BRIGHTNESS:
            colour.brightness(factors[BRIGHTNESS])
        elif operation == CONTRAST:
            colour.contrast(factors[CONTRAST])
        elif operation == SATURATION:
            colour.saturation(factors[SATURATION])
        else:
            colour.hue(factors[HUE])


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian of standard deviation `sigma` pixels, cut at three of them (PIL approximates it by box filters)."""
    if sigma < 0.25:  # the neighbours' weight is below 1/255
        return image
    kernel = cv2.getGaussianKernel(2 * math.ceil(3.0 * sigma) + 1, sigma, cv2.CV_32F)
    return cv2.sepFilter2D(image, -1, kernel, kernel)
