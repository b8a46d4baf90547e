"""Transform lists of a config, applied to one image: the evaluation pipeline and classifier training.

Every transform is a callable (PIL image, stream) -> PIL image; resizing is PIL's own, so evaluation pixels equal the
original's exactly. ToTensor, Normalize and their kin do nothing to the pixels here: their constants become the
loader's `normalizer`, which runs on the device.
"""
from __future__ import annotations

import math
from typing import Callable, List, Literal, Optional, Sequence, Tuple, Union

import numpy as np
from PIL import Image

from passl.data.augment.colour import jitter
from passl.data.augment.geometry import random_box
from passl.data.augment.smoothing import gaussian_blur
from passl.data.random_streams import Stream
from passl.errors import DataError
from passl.registry import TRANSFORMS, nearest

_FILTERS = {str(scaling.name).lower(): scaling for scaling in Image.Resampling}
Interpolation = Optional[Literal["nearest", "bilinear", "bicubic", "box", "lanczos", "hamming"]]  # None: bilinear
_PIL_ONLY = {"backend": "images are always resized with PIL, antialiased",
             "antialias": "PIL always antialiases"}


class ImageTransform:
    """A config's transform list: uint8 [H, W, 3] array and stream -> uint8 array.

    `normalization` is (mean, std) in units of 0..1 for the device; (0, 0, 0), (1, 1, 1) when the list has no Normalize.
    """

    def __init__(self, entries: list):
        self.steps = [build_transform(entry, f"transform.{position}") for position, entry in enumerate(entries)]
        markers = [isinstance(step, DeviceStep) for step in self.steps]
        if True in markers and False in markers[markers.index(True):]:
            first = markers.index(True)
            late = markers.index(False, first)
            names = [type(self.steps[position]).__name__ for position in (late, first)]
            raise DataError(f"transform {names[0]} comes after {names[1]}; ToTensor, Normalize and ToCHWImage end the "
                            "list, because they run on the device")
        self.pixel_steps = [step for step, is_marker in zip(self.steps, markers) if not is_marker]
        constants = [step.constants for step in self.steps if isinstance(step, DeviceStep) and step.constants]
        if len(constants) > 1:
            raise DataError("the transform list normalises twice; keep one Normalize or NormalizeImage")
        self.reduction = self._reduction()
        self.normalization = constants[0] if constants else ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def _reduction(self) -> Optional[Callable[[int, int], int]]:
        """What `decode_image` calls with a JPEG file's height and width; None decodes all files at their size."""
        decoders = [step for step in self.pixel_steps if isinstance(step, DecodeImage)]
        if not any(step.scaled for step in decoders):
            return None
        others = [step for step in self.pixel_steps if not isinstance(step, DecodeImage)]
        if not others or not isinstance(others[0], (Resize, ResizeImage)):
            raise DataError("DecodeImage.scaled must know what size is wanted: let Resize or ResizeImage follow it, or "
                            "set it to False")
        resize = others[0]

        def reduction(height: int, width: int) -> int:
            wanted_width, wanted_height = resize.target(width, height)
            return next(factor for factor in (8, 4, 2, 1) if factor == 1 or (
                width >= 2 * factor * wanted_width and height >= 2 * factor * wanted_height))

        return reduction

    def __call__(self, image: np.ndarray, stream: Stream) -> np.ndarray:
        if not self.pixel_steps:
            return image
        picture = Image.fromarray(image)
        for step in self.pixel_steps:
            picture = step(picture, stream)
        return np.asarray(picture)


def build_transform(entry, where: str):
    """A transform from a config entry: `{Name: {parameter: value}}`, `{Name: null}` or just `Name`."""
    name, arguments = (entry, {}) if isinstance(entry, str) else _name_and_arguments(entry, where)
    known = TRANSFORMS.parameters(name)
    for key in arguments:
        if key not in known and key not in TRANSFORMS.legacy(name):
            raise DataError(f"{where}: {name} has no parameter '{key}'{nearest(key, known)}; it takes: "
                            f"{', '.join(known) or 'none'}")
    missing = [key for key, parameter in known.items() if parameter.required and key not in arguments]
    if missing:
        raise DataError(f"{where}: {name} needs {' and '.join(missing)}")
    return TRANSFORMS.build({**arguments, "name": name})


def _name_and_arguments(entry, where: str):
    if len(entry) != 1:
        raise DataError(f"{where}: expected one transform '- Name: {{parameter: value}}', got the keys "
                        f"{', '.join(entry)}")
    (name, arguments), = entry.items()
    return name, dict(arguments or {})


def _pair(size, what: str) -> Tuple[int, int]:
    """(height, width) from an int or a list of one or two."""
    values = [size] if isinstance(size, (int, float)) else list(size)
    if len(values) not in (1, 2) or any(value < 1 for value in values):
        raise DataError(f"{what} size {size} must be a positive number of pixels or [height, width]")
    return int(values[0]), int(values[-1])


@TRANSFORMS.register("Compose")
class Compose:
    """The transforms of an inner list, one after the other."""

    def __init__(self, transforms: list):
        self.transforms = [build_transform(entry, f"Compose.{n}") for n, entry in enumerate(transforms)]

    def __call__(self, picture: Image.Image, stream: Stream) -> Image.Image:
        for transform in self.transforms:
            picture = transform(picture, stream)
        return picture


@TRANSFORMS.register("RandomApply")
class RandomApply(Compose):
    """The transforms of an inner list together, with probability p."""

    def __init__(self, transforms: list, p: float = 0.5):
        super().__init__(transforms)
        self.p = p

    def __call__(self, picture: Image.Image, stream: Stream) -> Image.Image:
        return super().__call__(picture, stream) if stream.random() < self.p else picture


@TRANSFORMS.register("DecodeImage", legacy={
    "to_rgb": "images are always RGB", "to_np": "images are decoded by the dataset",
    "channel_first": "the channel order is set on the device", "backend": "images are decoded by the dataset"})
class DecodeImage:
    """How files are decoded; may stand first in a list, and PASSL's do.

    scaled: decode JPEG photographs at a half, a quarter or an eighth of their size, but at least twice the size that
      the Resize after it makes. Large photographs then take a fraction of the time, and their pixels differ by about
      one grey level of 255 (docs/benchmarks.md).
    """

    def __init__(self, scaled: bool = False):
        self.scaled = scaled

    def __call__(self, picture: Image.Image, stream: Stream) -> Image.Image:
        return picture


@TRANSFORMS.register("Resize", legacy=_PIL_ONLY)
class Resize:
    """Shorter side to `size` pixels (longer side truncated to whole pixels, as torchvision), or to [height, width]."""

    def __init__(self, size: Union[int, List[int]], interpolation: Interpolation = "bilinear"):
        sizes = [size] if isinstance(size, int) else list(size)
        self.shorter = sizes[0] if len(sizes) == 1 else None
        self.height, self.width = _pair(size, "Resize")
        self.filter = _FILTERS[interpolation or "bilinear"]

    def target(self, width: int, height: int) -> Tuple[int, int]:
        """(width, height) that an image of this size gets."""
        if self.shorter is None:
            return self.width, self.height
        longer = int(self.shorter * max(width, height) / min(width, height))
        return (self.shorter, longer) if width <= height else (longer, self.shorter)

    def __call__(self, picture: Image.Image, stream: Stream) -> Image.Image:
        target = self.target(*picture.size)
        return picture if picture.size == target else picture.resize(target, self.filter)


@TRANSFORMS.register("ResizeImage", legacy=_PIL_ONLY)
class ResizeImage:
    """PaddleClas spelling: shorter side to `resize_short` (longer side rounded), or to `size` = [width, height]."""

    def __init__(self, size: Optional[Union[int, List[int]]] = None, resize_short: Optional[int] = None,
                 interpolation: Interpolation = "bilinear"):
        if size is None and not resize_short:
            raise DataError("ResizeImage needs size or resize_short")
        self.resize_short, self.size, self.filter = resize_short, size, _FILTERS[interpolation or "bilinear"]

    def target(self, width: int, height: int) -> Tuple[int, int]:
        """(width, height) that an image of this size gets."""
        if not self.resize_short:
            return _pair(self.size, "ResizeImage")
        ratio = self.resize_short / min(width, height)
        return round(width * ratio), round(height * ratio)

    def __call__(self, picture: Image.Image, stream: Stream) -> Image.Image:
        target = self.target(*picture.size)
        return picture if picture.size == target else picture.resize(target, self.filter)


@TRANSFORMS.register("CenterCrop", "CenterCropImage")
class CenterCrop:
    """The central [height, width] pixels; a smaller image is first padded with black (torchvision's rule)."""

    def __init__(self, size: Union[int, List[int]]):
        self.height, self.width = _pair(size, "CenterCrop")

    def __call__(self, picture: Image.Image, stream: Stream) -> Image.Image:
        if picture.width < self.width or picture.height < self.height:
            canvas = Image.new("RGB", (max(self.width, picture.width), max(self.height, picture.height)))
            canvas.paste(picture, ((canvas.width - picture.width) // 2, (canvas.height - picture.height) // 2))
            picture = canvas
        left, top = int(round((picture.width - self.width) / 2)), int(round((picture.height - self.height) / 2))
        return picture.crop((left, top, left + self.width, top + self.height))


@TRANSFORMS.register("RandomResizedCrop", "RandCropImage", legacy=_PIL_ONLY)
class RandomResizedCrop:
    """A box of random area (share of the image, uniform in `scale`) and aspect ratio, resized to `size`."""

    def __init__(self, size: Union[int, List[int]], scale: Optional[List[float]] = None,
                 ratio: Optional[List[float]] = None, interpolation: Interpolation = "bilinear"):
        self.height, self.width = _pair(size, "RandomResizedCrop")
        area, shape = scale or (0.08, 1.0), ratio or (3 / 4, 4 / 3)
        self.scale = area[0], area[1]
        if not 0 < self.scale[0] <= self.scale[1]:
            raise DataError(f"RandomResizedCrop scale {scale} must be [smallest, largest] share of the area, above 0")
        self.log_ratio = math.log(shape[0]), math.log(shape[1])
        self.filter = _FILTERS[interpolation or "bilinear"]

    def __call__(self, picture: Image.Image, stream: Stream) -> Image.Image:
        top, left, height, width = random_box(stream.random, picture.height, picture.width, self.scale, self.log_ratio)
        box = picture.crop((left, top, left + width, top + height))
        return box.resize((self.width, self.height), self.filter)


@TRANSFORMS.register("RandomHorizontalFlip")
class RandomHorizontalFlip:
    """Mirror left and right with probability p."""

    def __init__(self, p: float = 0.5):
        self.p = p

    def __call__(self, picture: Image.Image, stream: Stream) -> Image.Image:
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if stream.random() < self.p else picture


@TRANSFORMS.register("RandFlipImage")
class RandFlipImage(RandomHorizontalFlip):
    """PaddleClas spelling: probability 0.5; flip_code 1 is horizontal, the only one supported."""

    def __init__(self, flip_code: Literal[1] = 1):
        super().__init__()


@TRANSFORMS.register("ColorJitter")
class ColorJitter:
    """Brightness, contrast, saturation (factors in [1-b, 1+b]) and hue (shift in [-h, h]), in random order.

    p: probability that anything happens.
    """

    def __init__(self, p: float = 1.0, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0,
                 hue: float = 0.0):
        if not 0 <= hue <= 0.5:
            raise DataError(f"ColorJitter hue {hue} must lie between 0 and 0.5 (half the colour circle)")
        self.strengths, self.hue, self.p = (brightness, contrast, saturation), hue, p

    def __call__(self, picture: Image.Image, stream: Stream) -> Image.Image:
        if stream.random() >= self.p:
            return picture
        factors = [stream.uniform(max(0.0, 1 - strength), 1 + strength) for strength in self.strengths]
        factors.append(stream.uniform(-self.hue, self.hue))
        return Image.fromarray(jitter(np.asarray(picture), factors, stream.order(4)))


@TRANSFORMS.register("RandomGrayscale")
class RandomGrayscale:
    """Grey in all three channels with probability p."""

    def __init__(self, p: float = 0.1):
        self.p = p

    def __call__(self, picture: Image.Image, stream: Stream) -> Image.Image:
        return picture.convert("L").convert("RGB") if stream.random() < self.p else picture


@TRANSFORMS.register("SimCLRGaussianBlur")
class SimCLRGaussianBlur:
    """Gaussian blur with a standard deviation uniform in `sigma` = [lowest, highest] pixels, with probability p."""

    def __init__(self, sigma: Sequence[float] = (0.1, 2.0), p: float = 1.0):
        self.sigma, self.p = sigma, p

    def __call__(self, picture: Image.Image, stream: Stream) -> Image.Image:
        if stream.random() >= self.p:
            return picture
        return Image.fromarray(gaussian_blur(np.asarray(picture), stream.uniform(*self.sigma)))


class DeviceStep:
    """A step that runs on the device for the whole batch; `constants` is (mean, std) or None."""

    constants: Optional[tuple] = None


@TRANSFORMS.register("ToTensor", "ToCHWImage")
class ToTensor(DeviceStep):
    """To [0, 1] and channels first; both are part of the loader's normalizer."""


def _mean_and_std(mean, std):
    pairs = tuple(tuple(float(value) for value in (values if isinstance(values, (list, tuple)) else [values] * 3))
                  for values in (mean, std))
    if any(len(values) != 3 for values in pairs) or any(value <= 0 for value in pairs[1]):
        raise DataError(f"Normalize needs three means and three positive deviations, got mean {mean}, std {std}")
    return pairs


@TRANSFORMS.register("Normalize", legacy={"to_rgb": "images are always RGB",
                                          "data_format": "batches are channels first on the device"})
class Normalize(DeviceStep):
    """(x - mean) / std of pixels in [0, 1]."""

    def __init__(self, mean: Union[float, List[float]] = 0.0, std: Union[float, List[float]] = 1.0):
        self.constants = _mean_and_std(mean, std)


@TRANSFORMS.register("NormalizeImage", legacy={
    "order": "batches are channels first on the device", "output_fp16": "precision is set by FP16.level",
    "channel_num": "images have three channels"})
class NormalizeImage(DeviceStep):
    """PaddleClas spelling: (scale * x - mean) / std of pixels in 0..255; scale may be text such as '1.0/255.0'."""

    def __init__(self, scale: Optional[Union[float, str]] = None, mean: Optional[List[float]] = None,
                 std: Optional[List[float]] = None):
        factor = 255.0 * (1 / 255 if scale is None else _fraction(scale))
        means, deviations = _mean_and_std(mean or (0.485, 0.456, 0.406), std or (0.229, 0.224, 0.225))
        self.constants = (tuple(value / factor for value in means), tuple(value / factor for value in deviations))


def _fraction(value: Union[float, str]) -> float:
    """A number, or text such as '1.0/255.0'."""
    try:
        numerator, slash, denominator = str(value).partition("/")
        number = float(numerator) / (float(denominator) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        number = 0.0
    if not number > 0:
        raise DataError(f"NormalizeImage scale '{value}' is not a positive number or a fraction such as 1.0/255.0")
    return number
