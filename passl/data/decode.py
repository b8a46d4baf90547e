"""Image files of any common kind to RGB uint8 arrays."""
from __future__ import annotations

import io
import logging
import os
import re
from functools import lru_cache
from typing import Callable, List, Optional, Tuple

import cv2
import numpy as np
from PIL import Image, ImageFile

from passl.data.sources import read_file
from passl.errors import DataError, UserError

LOGGER = logging.getLogger("passl")

# Half an image is not an image: a truncated file must raise, whatever another library has set this to.
ImageFile.LOAD_TRUNCATED_IMAGES = False

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


def read_image(path: str, reduction: Optional[Callable[[int, int], int]] = None) -> np.ndarray:
    """Read an image file as uint8 [H, W, 3] RGB, contiguous.

    reduction: called with a JPEG file's height and width; the factor it returns, 1, 2, 4 or 8, divides both sides
    (rounded up). The JPEG library then decodes only the frequencies that are left, so large photographs take a
    fraction of the time. Files of other formats, and all without `reduction`, keep their size.

    The pixel content is that of PIL's `Image.open(path).convert("RGB")`, except that grey files of 16 or 32 bits are
    scaled to 8 (PIL clips them to white). EXIF orientation is not applied, as in the original's loader: the stored
    pixels are what published results were obtained with.

    Raises DataError that names the file when it is missing, empty, truncated or not an image.
    """
    return decode_image(read_file(path), path, reduction)


def decode_image(data: bytes, name: str = "image",
                 reduction: Optional[Callable[[int, int], int]] = None) -> np.ndarray:
    """Decode the bytes of an image file as `read_image` does; `name` is used in error messages."""
    limit = _pixel_limit()
    if data.startswith(_JPEG_START):
        size, scan = _jpeg_header(data)
        # What follows the end of a picture's data is not judged; a thumbnail before it has an end of its own.
        end = data.rfind(_JPEG_END, scan) if scan else 0
        if end < 0:
            raise DataError(f"{name}: damaged image (the JPEG data have no end: the file is cut, or its download was)")
        if size and limit and size[0] * size[1] > limit:
            raise _too_large(name, size[0] * size[1], limit)
        # OpenCV fills a damaged JPEG with grey and says nothing; PIL, which gets what looks unusual, refuses it.
        if size and end > len(data) // 2:
            factor = reduction(*size) if reduction else 1
            try:
                image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS | _REDUCED[factor])
            except cv2.error:  # above OpenCV's own limit of 2 ** 30 pixels
                image = None
            if image is not None:
                return image if _RGB else cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image)
    return _decode_with_pil(data, name)


# OpenCV 4.11 and later deliver RGB straight from the JPEG library.
_RGB = hasattr(cv2, "IMREAD_COLOR_RGB")
_FLAGS = (cv2.IMREAD_COLOR_RGB if _RGB else cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
_REDUCED = {1: 0, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
            8: cv2.IMREAD_REDUCED_GRAYSCALE_8}  # these bits carry the factor alone, the colour is in _FLAGS
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _jpeg_header(data: bytes) -> Tuple[Optional[Tuple[int, int]], int]:
    """((height, width), where the first scan begins) of a JPEG file, 0 when the file ends before it.

    The size is None for other files than those of 8 bits and one or three components, as CMYK, which are PIL's.
    """
    size: Optional[Tuple[int, int]] = None
    position, end = 2, len(data) - 10
    while position < end and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:
            return size, position
        if marker in _FRAME_MARKERS and data[position + 4] == 8 and data[position + 9] in (1, 3):
            size = (int.from_bytes(data[position + 5:position + 7], "big"),
                    int.from_bytes(data[position + 7:position + 9], "big"))
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2:position + 4], "big")
    return None, 0


def _decode_with_pil(data: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format in _NEVER_END_IN_ZEROS and data.endswith(bytes(_BLOCK)):
                raise DataError(f"{name}: damaged image (it ends in zeros: its download did not end)")
            image.load()
            pixels = as_rgb(image, name)
            if image.format == "PNG" and data[24] == 16 and not image.mode.startswith("I"):
                _tell_dark(name, int(pixels.max(initial=0)) * 257)  # PIL gives the upper bytes of 16-bit colours
            return pixels
    except DataError:
        raise
    except Image.UnidentifiedImageError:
        raise DataError(f"{name}: not an image (its {len(data)} bytes start with {data[:8]!r})") from None
    except Image.DecompressionBombError as error:
        pixels_said = re.search(r"\d+", str(error))
        raise _too_large(name, int(pixels_said[0]) if pixels_said else 0, _pixel_limit() or 0) from None
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, EOFError, ... for damaged files
        raise DataError(f"{name}: damaged image ({error})") from None


_NEVER_END_IN_ZEROS = ("WEBP", "AVIF", "HEIF")  # compressed, but decoded without a word when the rest is zeros
_BLOCK = 512  # bytes; what was not downloaded is missing in blocks


@lru_cache(maxsize=None)
def _limit_wanted() -> Optional[float]:
    text = os.environ.get("PASSL_MAX_MEGAPIXELS")
    try:
        wanted = float(text) if text else None
    except ValueError:
        wanted = 0.0
    if wanted is not None and not wanted > 0:
        raise UserError(f"PASSL_MAX_MEGAPIXELS is '{text}'; expected a number of megapixels above 0")
    return wanted


def _pixel_limit() -> Optional[int]:
    """Pixels of the largest image that is read, for all formats alike: PIL's guard against bombs, None without it."""
    wanted = _limit_wanted()
    if wanted is not None:
        Image.MAX_IMAGE_PIXELS = int(wanted * 1e6 / 2)  # PIL refuses twice of it
    return Image.MAX_IMAGE_PIXELS and 2 * Image.MAX_IMAGE_PIXELS


def _too_large(name: str, pixels: int, limit: int) -> DataError:
    return DataError(f"{name}: too large for the limit of {limit / 1e6:.0f} megapixels ({pixels / 1e6:.0f})",
                     f"make it smaller, or set the environment variable PASSL_MAX_MEGAPIXELS={pixels // 10 ** 6 + 1}")


def as_rgb(image: Image.Image, name: str = "image") -> np.ndarray:
    """A PIL image as uint8 [H, W, 3], the pixels that `read_image` gives for its file."""
    if image.mode.startswith("I") or image.mode == "F":
        return _many_bits(np.asarray(image), image.mode, image.format or "", name)
    return np.array(image.convert("RGB"))


def _many_bits(values: np.ndarray, mode: str, file_format: str, name: str) -> np.ndarray:
    """Grey images of more than 8 bits to 8: 0..65535 and floating point 0..1 are scaled, 0..255 is taken as it is.

    16-bit files say what they are. 32-bit integers and floats do not, so their values decide; those that fit no scale
    are refused.
    """
    low, high = float(values.min()), float(values.max())
    if mode == "F":
        scale = 255.0 if high <= 1.0 else 1.0
        fits = 0.0 <= low and high <= 255.0
    else:
        is_sixteen = mode.startswith("I;16") or file_format == "PNG" or high > 255
        scale = 255.0 / 65535.0 if is_sixteen else 1.0
        fits = 0 <= low and high <= 65535
    if not fits:  # also false for NaN
        raise DataError(f"{name}: grey values from {low:g} to {high:g}; expected 0..1, 0..255 or 0..65535")
    if mode != "F" and scale < 1:
        _tell_dark(name, int(high))
    grey = np.rint(values.astype(np.float64) * scale).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _tell_dark(name: str, highest: int) -> None:
    """Warn once in a process of 16-bit files that fill a sixteenth of the range or less, as those of 12-bit cameras."""
    if 0 < highest < 4096 and not _told_of_dark:
        _told_of_dark.append(name)
        LOGGER.warning(f"{name}: a 16-bit image whose largest value is {highest} of 65535, so it is nearly black; "
                       "stretch such files to the whole range (more of them are not named)")


_told_of_dark: List[str] = []
