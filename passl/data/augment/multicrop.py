"""The multi-crop transform of SwAV: several random views of one image, at several resolutions (paper section 3.3)."""
from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import List, NamedTuple, Sequence, Tuple

import cv2
import numpy as np

from passl.data.augment.colour import jitter
from passl.data.augment.geometry import cut_out, random_box
from passl.data.augment.smoothing import gaussian_blur
from passl.data.random_streams import uniform_draws

_ORDERS = tuple(itertools.permutations(range(4)))  # of the operations of colour.jitter


@dataclass(frozen=True)
class Photometric:
    """Probabilities and strengths of what happens to a crop after it is cut out; the defaults are SwAV's.

    brightness, contrast and saturation b give factors uniform in [max(0, 1 - b), 1 + b]; hue h gives a shift uniform
    in [-h, h] of the circle. `blur_sigma` is in pixels of the output crop.
    """

    flip_probability: float = 0.5
    jitter_probability: float = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    grayscale_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: Tuple[float, float] = (0.1, 2.0)


class MultiCrop:
    """Callable (image, key) -> list of uint8 [S, S, 3] crops, first all crops of group 0, then of group 1, ...

    sizes, counts, scales: one entry per group: output side in pixels, number of crops, (lowest, highest) share of the
    image's area. aspect_ratio: smallest and largest width / height. All draws of an image come from the stream `key`.
    """

    def __init__(self, sizes: Sequence[int], counts: Sequence[int], scales: Sequence[Tuple[float, float]],
                 aspect_ratio: Tuple[float, float] = (3 / 4, 4 / 3), photometric: Photometric = Photometric()):
        self.photometric = p = photometric
        self.crop_sizes = [size for size, count in zip(sizes, counts) for _ in range(count)]
        self._crop_scales = [scale for scale, count in zip(scales, counts) for _ in range(count)]
        self._log_ratio = math.log(aspect_ratio[0]), math.log(aspect_ratio[1])
        # The shorter side of the smallest possible box over the output size, for an image of one pixel.
        narrowest = min(aspect_ratio[0], 1 / aspect_ratio[1])
        self._smallest = min(math.sqrt(scale[0] * narrowest) / size for size, scale in zip(sizes, scales))
        lowest = [max(0.0, 1 - strength) for strength in (p.brightness, p.contrast, p.saturation)]
        highest = [1 + strength for strength in (p.brightness, p.contrast, p.saturation)]
        # Lowest value and length of each range.
        self._factor_ranges = [(low, high - low) for low, high in zip(lowest + [-p.hue], highest + [p.hue])]

    def __call__(self, image: np.ndarray, key: int) -> List[np.ndarray]:
        plans = self.plans(image.shape[0], image.shape[1], key)
        # All crops are cut out first, while the image is in the cache.
        crops = [cut_out(image, plan.box, plan.size) for plan in plans]
        return [finish(crop, missing, plan) for (crop, missing), plan in zip(crops, plans)]

    def reduction(self, height: int, width: int) -> int:
        """1, 2, 4 or 8: by how much an image of this size may be reduced before it is cropped.

        After it the smallest possible crop is still at least 1.25 times its output size, so that antialiasing, not
        the reduction, decides about its pixels: they then differ from those of the whole image's PIL resize by 1.6
        grey levels on average at that limit, less for other crops.
        """
        smallest = self._smallest * math.sqrt(height * width)
        return next(factor for factor in (8, 4, 2, 1) if smallest >= 1.25 * factor or factor == 1)

    def plans(self, height: int, width: int, key: int) -> List["CropPlan"]:
        """All random decisions about the crops of an image of this size."""
        p, draw, plans = self.photometric, uniform_draws(key), []
        for size, scale in zip(self.crop_sizes, self._crop_scales):
            box = random_box(draw, height, width, scale, self._log_ratio)
            flip = draw() < p.flip_probability
            order, factors = (), ()  # type: Sequence[int], Sequence[float]
            if draw() < p.jitter_probability:
                order = _ORDERS[int(draw() * len(_ORDERS))]
                factors = [low + length * draw() for low, length in self._factor_ranges]
            grayscale = draw() < p.grayscale_probability
            sigma = 0.0
            if draw() < p.blur_probability:
                low, high = p.blur_sigma
                sigma = low + (high - low) * draw()
            plans.append(CropPlan(size, box, flip, order, factors, grayscale, sigma))
        return plans


def finish(crop: np.ndarray, missing: Tuple[float, float], plan: "CropPlan") -> np.ndarray:
    """What `plan` says after the reduction, and the smoothing that is `missing` from that; may overwrite `crop`."""
    _, _, flip, order, factors, grayscale, sigma = plan
    if flip:
        cv2.flip(crop, 1, crop)  # in place: new memory would be cold
    crop = gaussian_blur(jitter(crop, factors, order, grayscale), sigma, missing)
    return cv2.cvtColor(crop, cv2.COLOR_GRAY2RGB) if grayscale else crop


class CropPlan(NamedTuple):
    """What happens to one crop: empty `jitter_order` and `factors` mean no colour jitter, `blur_sigma` 0 no blur."""

    size: int
    box: Sequence[int]
    flip: bool
    jitter_order: Sequence[int]
    factors: Sequence[float]
    grayscale: bool
    blur_sigma: float
