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

import math
import struct
import threading
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
        # A turn of the hue changes places with what treats the three channels alike, but not with grey(x) or a clip;
        # a clip comes to the same before and after a multiplication that carries what it cuts off further away.
        if clips and not (operation == BRIGHTNESS and factor > 1.0) or operation == HUE and grey != 0.0:
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
            image, mean = shift_hue(image, factor), None
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
    _PACK(_MATRIX.memory, 0,
          own + red, green, blue, offset,
          red, own + green, blue, offset,
          red, green, own + blue, offset)
    return cv2.transform(image, _MATRIX.values)


class _Matrix(threading.local):
    """The 3 x 4 float32 matrix of this thread: making a new array takes longer than filling one."""

    def __init__(self):
        self.memory = bytearray(48)
        self.values = np.frombuffer(self.memory, np.float32).reshape(3, 4)


_MATRIX = _Matrix()
_PACK = struct.Struct("12f").pack_into


def shift_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """uint8 RGB image with its hue turned by `shift` (share of the circle, -0.5 .. 0.5), in steps of two degrees.

    PIL turns by whole 255ths of a hue of 8 bits; both stay half a grey level from the exact result on photographs.
    """
    steps = round(_HUES * abs(shift))
    if steps == 0:
        return image
    if steps > 255 - _HUES:  # would not fit into 8 bits
        return shift_hue(shift_hue(image, shift / 2), shift / 2)
    # Exchanging red and blue mirrors the circle, so that both directions are additions.
    to_hsv, from_hsv = _TURN_FORTH if shift > 0 else _TURN_BACK
    hsv = cv2.cvtColor(image, to_hsv)
    cv2.add(hsv, (float(steps), 0.0, 0.0, 0.0), hsv)  # HSV2RGB takes hues above 180 as what they exceed it by
    return cv2.cvtColor(hsv, from_hsv, hsv)


_HUES = 180  # OpenCV's hues of 8 bits
_TURN_FORTH = cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB
_TURN_BACK = cv2.COLOR_BGR2HSV, cv2.COLOR_HSV2BGR
