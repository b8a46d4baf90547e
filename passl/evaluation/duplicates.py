"""Near duplicates: pictures that are the same but for size, compression and a few per cent cut off the border."""
from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List, NamedTuple, Tuple

import cv2
import numpy as np

from passl.errors import UserError
from passl.evaluation.neighbours import neighbours_of_each

SIDE = 64  # pixels of the small pictures that are compared
BORDER = 6  # pixels around the part that is looked for in the other picture
MOST_SHIFT, MOST_SCALE = 8.0, 0.12  # pixels and share by which it may be moved and stretched there
MOST_COLOUR, MOST_CONTRAST = 12.0, 1.25  # grey levels and factor by which mean colour and contrast may differ
COARSE = 8  # pixels of the pictures by which candidates are found
FLAT = 3.0  # grey levels: a picture whose standard deviation is below shows nothing that could be compared
LEAST = 0.97


class Duplicates(NamedTuple):
    """pairs int64 [P, 2], rows, the smaller first; correlation float32 [P], 1 for equal pictures."""

    pairs: np.ndarray
    correlation: np.ndarray

    def groups(self, rows: int) -> List[np.ndarray]:
        """Sets of at least two rows that pairs connect, the largest first; `rows`: of all pictures.

        In a series, such as the frames of a film, the first and the last picture of a set need not be alike.
        """
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        ones = np.ones(len(self.pairs), np.int8)
        _, names = connected_components(coo_matrix((ones, self.pairs.T), shape=(rows, rows)), directed=False)
        order = np.argsort(names, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(names[order])) + 1)
        return sorted((part for part in parts if len(part) > 1), key=lambda part: (-len(part), part[0]))


def near_duplicates(pictures: np.ndarray, least: float = LEAST, candidates: int = 6, coarse: float = 0.8
                    ) -> Duplicates:
    """Pairs of pictures that show the same, found by their pixels, whatever a network thinks of them.

    pictures: uint8 [N, SIDE, SIDE, 3], whole pictures reduced to SIDE x SIDE; a memory map will do.
    candidates: how many others each picture is compared with; those most like it at COARSE x COARSE pixels, of at
        least the correlation `coarse`.
    least: what `alignment` has to give for a pair. docs/report.md says what the default finds, and what it takes for
        duplicates that are none.
    A set of many equal pictures is connected through its first ones (`Duplicates.groups`). Pictures without any
    structure are pairs when they have the same colour.
    """
    if pictures.dtype != np.uint8 or pictures.shape[1:] != (SIDE, SIDE, 3):
        raise UserError(f"pictures must be uint8 [N, {SIDE}, {SIDE}, 3], got {pictures.dtype} {list(pictures.shape)}")
    is_flat = np.array([_deviation(picture) < FLAT for picture in pictures], bool)
    structured = np.flatnonzero(~is_flat)
    pairs = _same_colour(pictures, np.flatnonzero(is_flat))
    correlations = [1.0] * len(pairs)
    found = neighbours_of_each(_coarse(pictures, structured), candidates)
    asked = sorted({(min(one, other), max(one, other))
                    for row, (indices, cosines) in enumerate(zip(found.indices, found.cosines))
                    for one, other in ((int(structured[row]), int(structured[index]))
                                       for index in indices[cosines >= coarse])})
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # OpenCV lets go of the interpreter while it works
        fits = threads.map(lambda pair: alignment(pictures[pair[0]], pictures[pair[1]]), asked)
        for pair, correlation in zip(asked, fits):
            if correlation >= least:
                pairs.append(pair)
                correlations.append(correlation)
    return Duplicates(np.array(pairs, np.int64).reshape(-1, 2), np.array(correlations, np.float32))


def alignment(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two uint8 [SIDE, SIDE, 3] pictures, colours included, after one is moved and stretched to fit.

    The fit is that of Evangelidis and Psarakis (2008, "Parametric image alignment using enhanced correlation
    coefficient maximization") to parts of a pixel: without it a picture cropped by 5 per cent correlates no better
    with its original than two shirts on the same bed do. -1 when it would have to be moved too far, or has
    another brightness, colour or contrast: such a change is meant, and correlation does not see it.
    """
    centre = np.ascontiguousarray(one[BORDER:-BORDER, BORDER:-BORDER])
    warp = np.array([[1, 0, BORDER], [0, 1, BORDER]], np.float32)
    grey_centre, grey_other = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (centre, other))
    try:
        _, warp = cv2.findTransformECC(grey_centre, grey_other, warp, cv2.MOTION_AFFINE, (3, 15, 1e-3), None, 5)
    except cv2.error:  # the pictures have nothing in common
        return -1.0
    if np.abs(warp[:, :2] - np.eye(2)).max() > MOST_SCALE or np.abs(warp[:, 2] - BORDER).max() > MOST_SHIFT:
        return -1.0
    fitted = cv2.warpAffine(other, warp, centre.shape[1::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                            borderMode=cv2.BORDER_REPLICATE)
    means, deviations = zip(*((picture.mean(axis=(0, 1)), _deviation(picture)) for picture in (fitted, centre)))
    if np.abs(means[0] - means[1]).max() > MOST_COLOUR or max(deviations) > MOST_CONTRAST * max(min(deviations), 1.0):
        return -1.0
    smooth = [cv2.GaussianBlur(picture, (3, 3), 0.7) for picture in (fitted, centre)]  # noise of the compression
    return min(1.0, float(cv2.matchTemplate(smooth[0], smooth[1], cv2.TM_CCOEFF_NORMED)[0, 0]))


def _deviation(picture: np.ndarray) -> float:
    """Standard deviation of a picture's pixels about its mean colour."""
    return float(np.sqrt(picture.astype(np.float64).var(axis=(0, 1)).mean()))


def _coarse(pictures: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Float32 [n, COARSE * COARSE * 3]: the pictures of `rows`, reduced, without their mean colour."""
    small = np.zeros([len(rows), COARSE * COARSE, 3], np.float32)
    for place, row in enumerate(rows):
        small[place] = cv2.resize(pictures[row], (COARSE, COARSE), interpolation=cv2.INTER_AREA).reshape(-1, 3)
    return (small - small.mean(1, keepdims=True)).reshape(len(rows), -1)


def _same_colour(pictures: np.ndarray, rows: np.ndarray) -> List[Tuple[int, int]]:
    """Pairs of `rows` that have the same colour, each with the first one of it."""
    first: Dict[Tuple[int, ...], int] = {}
    pairs = []
    for row in rows.tolist():
        colour = tuple(np.rint(pictures[row].mean(axis=(0, 1)) / 2).astype(int).tolist())
        if first.setdefault(colour, row) != row:
            pairs.append((first[colour], row))
    return pairs
