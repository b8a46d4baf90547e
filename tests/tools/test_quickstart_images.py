"""The quickstart's images: balanced, reproducible, and only their content tells the class."""
import hashlib
import json

import numpy as np
import pytest

from passl.data.decode import read_image
from tools.quickstart import images


def digest(folder):
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*.png"))}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    return folder, images.make_images(folder, seed=3, train_images=6, val_images=2)


def test_tree_is_balanced_and_readable(tree):
    folder, counts = tree
    assert counts == {"train": 6 * images.PLACES, "val": 2 * images.PLACES}
    for split, each in (("train", 6), ("val", 2)):
        classes = sorted((folder / split).iterdir())
        assert [path.name for path in classes] == [f"{place:02d}" for place in range(images.PLACES)]
        for path in classes:
            files = sorted(path.iterdir())
            assert len(files) == each
            picture = read_image(str(files[0]))
            assert picture.shape == (images.SIDE, images.SIDE, 3) and picture.std() > 5


def test_every_picture_differs_also_between_the_splits(tree):
    folder, counts = tree
    assert len(set(digest(folder).values())) == sum(counts.values())


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tree, tmp_path):
    folder, _ = tree
    images.make_images(tmp_path / "same", seed=3, train_images=6, val_images=2)
    images.make_images(tmp_path / "other", seed=4, train_images=6, val_images=2)
    assert digest(tmp_path / "same") == digest(folder)
    assert not set(digest(tmp_path / "other").values()) & set(digest(folder).values())


def test_finished_tree_is_kept_and_other_or_unfinished_ones_are_made_anew(tmp_path):
    images.make_images(tmp_path, seed=0, train_images=2, val_images=1)
    file = tmp_path / "train" / "00" / "0000.png"
    original = file.read_bytes()
    file.write_bytes(b"mine")
    images.make_images(tmp_path, seed=0, train_images=2, val_images=1)
    assert file.read_bytes() == b"mine"
    images.make_images(tmp_path, seed=0, train_images=1, val_images=1)
    assert file.read_bytes() == original
    assert not (tmp_path / "train" / "00" / "0001.png").exists()
    (tmp_path / "recipe.json").write_text(json.dumps({"version": 0}))
    file.write_bytes(b"mine")
    images.make_images(tmp_path, seed=0, train_images=1, val_images=1)
    assert file.read_bytes() == original


def test_places_are_the_detailed_cells_and_do_not_overlap():
    from sklearn.datasets import load_sample_images

    places = images.find_places()
    details = [images.detail(place) for place in places]
    assert len(places) == images.PLACES and details == sorted(details, reverse=True)
    assert min(details) > 1.0 and all(min(place.shape[:2]) > images.SMALLEST_CUT for place in places)
    photographs = load_sample_images().images
    flat = [place.tobytes() for place in places]
    assert len(set(flat)) == images.PLACES
    assert min(p.shape[0] for p in photographs) // images.GRID[0] > images.SMALLEST_CUT


def test_mean_colour_does_not_tell_the_place():
    """Nearest class mean of the average colour is no better than twice chance."""
    random = np.random.default_rng(0)
    places = images.find_places()
    means = np.array([[images.picture_of(place, random).mean((0, 1)) for _ in range(40)] for place in places])
    centres, held_out = means[:, :30].mean(1), means[:, 30:]
    nearest = np.linalg.norm(held_out[:, :, None] - centres[None, None], axis=-1).argmin(-1)
    assert (nearest == np.arange(images.PLACES)[:, None]).mean() < 2 / images.PLACES
