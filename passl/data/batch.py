"""How samples are laid out in the arrays of a batch, what the device makes of the pixels, and crops as one picture."""
from __future__ import annotations

import math
from typing import Dict, List, Sequence, Tuple

import numpy as np

from passl.errors import DataError, UserError

_ALIGNMENT = 64
_GAP, _BACKGROUND = 2, 255  # of `crop_grid`: pixels between crops, white


class BatchLayout:
    """Shapes of a batch, taken from one sample; allocates batches and stores samples at their row.

    A sample is (crops, index) or (image, label, index); a batch is a dict of contiguous arrays:
    {"crops": [uint8 [B, S, S, 3], ...], "index": int64 [B]} or
    {"image": uint8 [B, H, W, 3], "label": int64 [B], "index": int64 [B]}.
    """

    def __init__(self, sample):
        self.is_multi_crop = isinstance(sample[0], (list, tuple))
        images = sample[0] if self.is_multi_crop else [sample[0]]
        self.image_shapes: List[Tuple[int, ...]] = [image.shape for image in images]

    def size(self, batch_size: int) -> int:
        """Bytes of a buffer for `batch_size` samples."""
        *_, (_, _, start) = self._parts(batch_size)
        return start + 8 * batch_size

    def _parts(self, batch_size: int):
        """(shape, type, first byte) of each array of a batch."""
        start = 0
        for shape, kind in [*((shape, np.uint8) for shape in self.image_shapes), ((), np.int64), ((), np.int64)]:
            yield (batch_size, *shape), kind, start
            start += -(-batch_size * math.prod(shape) * np.dtype(kind).itemsize // _ALIGNMENT) * _ALIGNMENT

    def arrays(self, buffer, batch_size: int) -> List[np.ndarray]:
        """Arrays of a whole batch over `buffer` (anything with the buffer protocol): images, then label, then index."""
        return [np.ndarray(shape, kind, buffer, start) for shape, kind, start in self._parts(batch_size)]

    def store(self, arrays: List[np.ndarray], row: int, sample, name: str) -> None:
        """Copy `sample` into `row`; `name` (the file) appears in the error when its shape is not the batch's."""
        images = sample[0] if self.is_multi_crop else [sample[0]]
        for array, image in zip(arrays, images):
            if image.shape != array.shape[1:]:
                raise DataError(f"{name}: image is {image.shape[1]} x {image.shape[0]} after the transforms while "
                                f"others are {array.shape[2]} x {array.shape[1]}; end the transform list with a crop "
                                "of fixed size (CenterCrop, RandomResizedCrop)")
            array[row] = image
        if not self.is_multi_crop:
            arrays[-2][row] = sample[1]
        arrays[-1][row] = sample[-1]

    def as_batch(self, arrays: List[np.ndarray], rows: int, copy: bool) -> Dict:
        """The first `rows` rows as a batch dict."""
        kept = [array[:rows].copy() if copy else array[:rows] for array in arrays]
        if self.is_multi_crop:
            return {"crops": kept[:-2], "index": kept[-1]}
        return {"image": kept[0], "label": kept[-2], "index": kept[-1]}


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
        self._tensors: Dict[str, tuple] = {}  # of each device

    def __call__(self, pixels):
        """uint8 tensor [B, H, W, 3] in 0..255 -> float32 tensor [B, 3, H, W]."""
        import paddle

        place = str(pixels.place)
        if place not in self._tensors:
            self._tensors[place] = (paddle.to_tensor(self._scale, place=pixels.place),
                                    paddle.to_tensor(self._shift, place=pixels.place))
        scale, shift = self._tensors[place]
        return (pixels.astype("float32") * scale + shift).transpose([0, 3, 1, 2])


def crop_grid(crops_of_images: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """One row per image, one column per crop, crops at their own size: uint8 [H, W, 3].

    `crops_of_images` holds for each image its list of uint8 [S, S, 3] crops. From a batch:
    `crop_grid([[crops[i] for crops in batch["crops"]] for i in range(8)])`.
    """
    widths = [crop.shape[1] for crop in crops_of_images[0]]
    row_height = max(crop.shape[0] for crop in crops_of_images[0])
    grid = np.full((len(crops_of_images) * (row_height + _GAP) - _GAP, sum(widths) + _GAP * (len(widths) - 1), 3),
                   _BACKGROUND, np.uint8)
    for row, crops in enumerate(crops_of_images):
        top, left = row * (row_height + _GAP), 0
        for crop in crops:
            grid[top:top + crop.shape[0], left:left + crop.shape[1]] = crop
            left += crop.shape[1] + _GAP
    return grid
