"""Image files of any common kind to RGB uint8 arrays."""
from __future__ import annotations

import io
from typing import Callable, Optional, Tuple

import cv2
import numpy as np
from PIL import Image, ImageFile

from passl.data.sources import read_file
from passl.errors import DataError

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
    # OpenCV fills a truncated JPEG with grey and says nothing; PIL, which gets what has no end marker, refuses it.
    if data.startswith(_JPEG_START) and data.rfind(_JPEG_END, len(data) // 2) > 0:
        size = _plain_jpeg_size(data)
        factor = reduction(*size) if size and reduction else 1
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS | _REDUCED[factor]) if size else None
        if image is not None:
            return image if _RGB else cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image)
    return _decode_with_pil(data, name)


# OpenCV 4.11 and later deliver RGB straight from the JPEG library.
_RGB = hasattr(cv2, "IMREAD_COLOR_RGB")
_FLAGS = (cv2.IMREAD_COLOR_RGB if _RGB else cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
_REDUCED = {1: 0, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
            8: cv2.IMREAD_REDUCED_GRAYSCALE_8}  # these bits carry the factor alone, the colour is in _FLAGS
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _plain_jpeg_size(data: bytes) -> Optional[Tuple[int, int]]:
    """(height, width) by the frame header of 8 bits and one or three components; None for others, as CMYK, for PIL."""
    position, end = 2, len(data) - 10
    while position < end and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _FRAME_MARKERS:
            if data[position + 4] != 8 or data[position + 9] not in (1, 3):
                return None
            return (int.from_bytes(data[position + 5:position + 7], "big"),
                    int.from_bytes(data[position + 7:position + 9], "big"))
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2:position + 4], "big")
    return None


def _decode_with_pil(data: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return as_rgb(image, name)
    except DataError:
        raise
    except Image.UnidentifiedImageError:
        raise DataError(f"{name}: not an image (its {len(data)} bytes start with {data[:8]!r})") from None
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, EOFError, ... for damaged files
        raise DataError(f"{name}: damaged image ({error})") from None


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
    grey = np.rint(values.astype(np.float64) * scale).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
