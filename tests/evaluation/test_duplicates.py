"""Near duplicates: planted ones are found, other pictures are left alone, groups equal brute force."""
import cv2
import numpy as np
import pytest

from passl.errors import UserError
from passl.evaluation.duplicates import SIDE, Duplicates, alignment, near_duplicates

KINDS = ("original", "resized", "recompressed", "cropped")


def photograph(seed):
    """uint8 [150, 200, 3] with structure of every size, as photographs have it: noise of 1/f spectrum."""
    generator = np.random.default_rng(seed)
    rows, columns = np.meshgrid(np.fft.fftfreq(150), np.fft.fftfreq(200), indexing="ij")
    spectrum = 1 / np.maximum(np.hypot(rows, columns), 1 / 200) ** 1.3
    waves = np.fft.fft2(generator.standard_normal((3, 150, 200))) * spectrum
    layers = np.fft.ifft2(waves).real
    layers = (layers - layers.mean((1, 2), keepdims=True)) / layers.std((1, 2), keepdims=True)
    return np.clip(128 + 45 * layers, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def changed(picture, kind, generator):
    height, width = picture.shape[:2]
    if kind == "resized":
        return cv2.resize(picture, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    if kind == "recompressed":
        return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)
    if kind == "cropped":  # 5 per cent of each side, anywhere
        rows, columns = int(height * 0.95), int(width * 0.95)
        top, left = generator.integers(height - rows + 1), generator.integers(width - columns + 1)
        return picture[top:top + rows, left:left + columns]
    return picture


def reduced(picture):
    return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def planted():
    """(pictures, number of the photograph that each is of): 60 photographs, 20 of them with three changed copies."""
    generator = np.random.default_rng(1)
    photographs = [photograph(seed) for seed in range(60)]
    pictures = [reduced(picture) for picture in photographs]
    source = list(range(60))
    for number in range(20):
        for kind in KINDS[1:]:
            pictures.append(reduced(changed(photographs[number], kind, generator)))
            source.append(number)
    return np.stack(pictures), np.array(source)


def test_planted_duplicates_are_found_and_nothing_else(planted):
    pictures, source = planted
    found = near_duplicates(pictures)
    expected = {(one, other) for one in range(len(source)) for other in range(one + 1, len(source))
                if source[one] == source[other]}
    pairs = set(map(tuple, found.pairs.tolist()))
    assert len(expected) == 120 and (found.pairs[:, 0] < found.pairs[:, 1]).all()
    assert pairs <= expected  # precision 1
    assert len(pairs) >= 0.97 * len(expected)  # pairs of two changed copies are the hardest
    groups = found.groups(len(pictures))
    assert sorted(tuple(source[group]) for group in groups) == [(number,) * 4 for number in range(20)]  # recall 1


def test_candidates_miss_nothing_that_all_pairs_would_give(planted):
    pictures = planted[0][:90]
    found = near_duplicates(pictures)
    brute = {(one, other) for one in range(90) for other in range(one + 1, 90)
             if alignment(pictures[one], pictures[other]) >= 0.97}
    assert set(map(tuple, found.pairs.tolist())) == brute


def test_groups_equal_brute_force():
    pairs = np.array([[0, 3], [3, 5], [1, 2], [6, 7], [7, 8], [8, 9]])
    groups = Duplicates(pairs, np.ones(6, np.float32)).groups(12)
    assert [group.tolist() for group in groups] == [[6, 7, 8, 9], [0, 3, 5], [1, 2]]
    assert Duplicates(np.zeros((0, 2), np.int64), np.zeros(0, np.float32)).groups(4) == []


def test_pictures_without_structure_and_many_equal_ones():
    blank = [np.full((SIDE, SIDE, 3), colour, np.uint8) for colour in (0, 255, 0, 128)]
    many = [reduced(photograph(3))] * 30
    found = near_duplicates(np.stack([*blank, *many]))
    assert [group.tolist() for group in found.groups(34)] == [list(range(4, 34)), [0, 2]]


def test_a_turned_or_recoloured_picture_is_another_one():
    picture = reduced(photograph(5))
    assert alignment(picture, picture) > 0.999
    assert alignment(picture, np.ascontiguousarray(picture[::-1])) < 0.9
    assert alignment(picture, np.ascontiguousarray(255 - picture)) < 0.9
    assert alignment(picture, (picture * 0.7 + 90).astype(np.uint8)) < 0.9
    assert alignment(picture, np.clip(picture + np.array([30.0, 0, 0]), 0, 255).astype(np.uint8)) < 0.9
    with pytest.raises(UserError, match="uint8"):
        near_duplicates(np.zeros((2, 32, 32, 3), np.uint8))
