"""Photometric operations of the multi-crop transform on uint8 RGB crops.

Brightness, contrast, saturation and grayscale are all of the form  a * x + g * grey(x) + c  with three scalars, and
the form is closed under composition because grey() is linear and its weights sum to one. An operation with a factor
of at most one cannot leave 0..255, so it needs no clipping and is composed on paper with the next one; only what
clips is carried out. The reference clips and truncates to uint8 after every operation; here values round once
per pass, which differs by about one grey level.

All of this runs between passes over pixels that push everything else out of the caches, Python's own data included:
few calls and few objects count here.
"""
from __future__ import annotations

import functools
import math
import struct
from typing import Sequence

import cv2
import numpy as np

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's convert("L")

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def jitter(image: np.ndarray, factors: Sequence[float], order: Sequence[int], grayscale: bool = False) -> np.ndarray:
    """Brightness, contrast, saturation and hue of a uint8 RGB image [H, W, 3], then perhaps grayscale.

    order: the operations to carry out, BRIGHTNESS .. HUE; each is also the place of its factor in `factors`. A factor f
    makes of x: f * x (brightness); f * x + (1 - f) * m with m the mean grey value of the whole image, rounded as PIL
    does (contrast); f * x + (1 - f) * grey(x) (saturation). The factor of hue is a shift as in `shift_hue`.

    Returns a new image, [H, W] after grayscale, or `image` itself when there is nothing to do.
    """
    own, grey, offset, clips = 1.0, 0.0, 0.0, False  # pending: own * x + grey * grey(x) + offset
    mean = None  # mean grey value of `image`, computed when contrast asks for it
    for operation in order:
        factor = factors[operation]
        if clips or operation == HUE:
            image = _mix(image, own, grey, offset)
            own, grey, offset, mean = 1.0, 0.0, 0.0, None
        clips = False if operation == HUE else factor > 1.0
        if operation == BRIGHTNESS:
            own, grey, offset = factor * own, factor * grey, factor * offset
        elif operation == CONTRAST:
            if mean is None:
                red, green, blue, _ = cv2.mean(image)
                mean = GREY_WEIGHTS[0] * red + GREY_WEIGHTS[1] * green + GREY_WEIGHTS[2] * blue
            level = math.floor((own + grey) * mean + offset + 0.5)
            own, grey, offset = factor * own, factor * grey, factor * offset + (1.0 - factor) * level
        elif operation == SATURATION:
            own, grey = factor * own, factor * grey + (1.0 - factor) * (own + grey)
        else:
            image = shift_hue(image, factor)
    if not grayscale:
        return _mix(image, own, grey, offset)
    if clips:
        image, own, grey, offset = _mix(image, own, grey, offset), 1.0, 0.0, 0.0
    image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if own + grey == 1.0 and offset == 0.0:
        return image
    return cv2.addWeighted(image, own + grey, image, 0.0, offset)


def _mix(image: np.ndarray, own: float, grey: float, offset: float) -> np.ndarray:
    """own * x + grey * grey(x) + offset, rounded and clipped."""
    if own == 1.0 and grey == 0.0 and offset == 0.0:
        return image
    red, green, blue = GREY_WEIGHTS
    red, green, blue = grey * red, grey * green, grey * blue
    # Packed, not np.array, which takes as long as the rest of the call.
    packed = _MATRIX.pack(own + red, green, blue, offset,
                          red, own + green, blue, offset,
                          red, green, own + blue, offset)
    return cv2.transform(image, np.frombuffer(packed, np.float32).reshape(3, 4))


_MATRIX = struct.Struct("12f")


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
