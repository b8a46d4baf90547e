"""Normalisation of a uint8 batch on the device that computes with it."""
from __future__ import annotations

from typing import Sequence

import numpy as np

from passl.errors import UserError


class Normalizer:
    """(x / 255 - mean) / std and the change from NHWC to NCHW, as one multiply-add on the tensor's own device.

    Workers hand over uint8: a quarter of the bytes of float32 through memory and to the device.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        mean64, std64 = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        if mean64.shape != (3,) or std64.shape != (3,) or not (std64 > 0).all():
            raise UserError(f"normalisation needs three means and three positive deviations, got mean {mean}, "
                            f"std {std}")
        self.mean, self.std = tuple(mean64.tolist()), tuple(std64.tolist())
        self._scale = (1.0 / (255.0 * std64)).astype(np.float32)
        self._shift = (-mean64 / std64).astype(np.float32)
        self._tensors = {}

    def __call__(self, pixels):
        """uint8 tensor [B, H, W, 3] in 0..255 -> float32 tensor [B, 3, H, W]."""
        import paddle

        place = str(pixels.place)
        if place not in self._tensors:
            self._tensors[place] = (paddle.to_tensor(self._scale, place=pixels.place),
                                    paddle.to_tensor(self._shift, place=pixels.place))
        scale, shift = self._tensors[place]
        return (pixels.astype("float32") * scale + shift).transpose([0, 3, 1, 2])
