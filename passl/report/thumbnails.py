"""Small pictures for a page: read once, as large as the space allows, those that are shown first largest."""
from __future__ import annotations

import hashlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Iterable, List, NamedTuple, Sequence, Tuple

import cv2
import numpy as np

from passl.data.decode import decode_image
from passl.data.sources import ImageFiles
from passl.errors import DataError
from passl.evaluation.duplicates import SIDE as COMPARED_SIDE

QUALITY = 70  # of WebP
SMALLEST = 24  # pixels; below that a picture says nothing
STEPS = (1.0, 0.8, 0.65, 0.5, 0.4, 0.33)  # sizes that are tried, as shares of the side asked for


class Pictures(NamedTuple):
    """thumbnails: WebP, b"" when the file cannot be read. compared uint8 [N, 64, 64, 3]: for `near_duplicates`, in a
    file that vanishes with it. digests: of the files' bytes."""

    thumbnails: List[bytes]
    compared: np.ndarray
    digests: List[bytes]


def read_pictures(samples: ImageFiles, rows: Sequence[int], side: int = 96) -> Pictures:
    """Read the files of `rows`, each once; `side`: pixels of the longer side of a thumbnail.

    Pictures are shown as the network sees them: an EXIF orientation is not applied.
    """
    with tempfile.TemporaryFile() as file:
        compared = np.memmap(file, np.uint8, "w+", shape=(max(1, len(rows)), COMPARED_SIDE, COMPARED_SIDE, 3))

    def read(place_and_row: Tuple[int, int]) -> Tuple[bytes, bytes]:
        place, row = place_and_row
        try:
            data = samples.read(row)
            image = decode_image(data, samples.name(row), lambda height, width: _reduction(height, width, side))
        except DataError:
            return b"", b""
        compared[place] = cv2.resize(image, (COMPARED_SIDE, COMPARED_SIDE), interpolation=cv2.INTER_AREA)
        return encode(image, side), hashlib.sha256(data).digest()

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # OpenCV lets go of the interpreter while it works
        found = list(threads.map(read, enumerate(rows)))
    return Pictures([thumbnail for thumbnail, _ in found], compared[:len(rows)], [digest for _, digest in found])


def encode(image: np.ndarray, side: int) -> bytes:
    """A uint8 RGB picture as WebP whose longer side has `side` pixels; smaller pictures keep their size."""
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, encoded = cv2.imencode(".webp", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    if not done:
        raise DataError("OpenCV cannot write WebP here: install opencv-python-headless")
    return encoded.tobytes()


def fit_into(thumbnails: Sequence[bytes], first: Iterable[int], space: int, side: int) -> List[bytes]:
    """Thumbnails that take at most `space` bytes in all.

    Those of the rows in `first`, which a page shows without being asked, are the largest that fit into half of the
    space, the others the largest that fit into the rest. Where even the smallest size does not fit, later rows have
    none (b"").
    """
    if sum(map(len, thumbnails)) <= space:
        return list(thumbnails)
    result = [b""] * len(thumbnails)
    shown = list(dict.fromkeys(first))
    others = sorted(set(range(len(thumbnails))) - set(shown))
    for rows, budget in ((shown, space // 2), (others, None)):
        budget = space - sum(map(len, result)) if budget is None else budget
        for row, thumbnail in zip(rows, _largest(thumbnails, rows, budget, side)):
            result[row] = thumbnail
    return result


def _largest(thumbnails: Sequence[bytes], rows: Sequence[int], space: int, side: int) -> List[bytes]:
    """Thumbnails of `rows` in the largest of STEPS that fits, cut off where the smallest does not."""
    sample = rows[::max(1, len(rows) // 200)]
    made: List[bytes] = []
    for step in STEPS:
        pixels = max(SMALLEST, round(side * step))
        smallest = step == STEPS[-1] or pixels == SMALLEST
        tried = [shrunk(thumbnails[row], pixels) for row in sample]
        if not smallest and sum(map(len, tried)) * len(rows) > 0.98 * space * max(1, len(sample)):
            continue
        made = [shrunk(thumbnails[row], pixels) for row in rows]
        if smallest or sum(map(len, made)) <= space:
            break
    kept = np.cumsum([len(one) for one in made]) <= space
    return [one if keep else b"" for one, keep in zip(made, kept)]


def shrunk(thumbnail: bytes, side: int) -> bytes:
    """The same picture with a longer side of `side` pixels."""
    image = cv2.imdecode(np.frombuffer(thumbnail, np.uint8), cv2.IMREAD_COLOR) if thumbnail else None
    return thumbnail if image is None or max(image.shape) <= side else encode(
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB), side)


def _reduction(height: int, width: int, side: int) -> int:
    """Factor by which the JPEG library may reduce a picture that is shown at `side` pixels."""
    wanted = max(side, COMPARED_SIDE)
    return next((factor for factor in (8, 4, 2) if min(height, width) // factor >= 2 * wanted), 1)
