"""Few-label lists: balanced, nested, the same for the same seed, and read by FewShotDataset."""
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from passl.data.datasets import FewShotDataset
from passl.errors import DataError
from tools.make_subset import deal, main, subset_list


def tree(root, names="{number}.png", counts=(20, 20, 7)):
    for label, count in enumerate(counts):
        folder = root / f"n0{label}"
        folder.mkdir(parents=True)
        for number in range(count):
            Image.fromarray(np.full((2, 2, 3), label, np.uint8)).save(
                folder / names.format(number=number, label=folder.name))
    return root


def test_lists_that_are_there_are_kept(tmp_path, capsys):
    root = tree(tmp_path / "train")
    (tmp_path / "1percent.txt").write_text("theirs")
    assert main([str(root), "--percent", "10", "1"]) == 1
    assert "1percent.txt would be replaced" in capsys.readouterr().err
    assert (tmp_path / "1percent.txt").read_text() == "theirs" and not (tmp_path / "10percent.txt").exists()
    assert main([str(root), "--percent", "1", "--force"]) == 0
    assert (tmp_path / "1percent.txt").read_text() != "theirs"


@pytest.mark.parametrize("size", [3, 10, 21, 40])
def test_every_beginning_is_balanced(size):
    labels = np.repeat([0, 1, 2], [20, 20, 7])
    shares = np.bincount(labels[deal(labels, 0)[:size]], minlength=3)
    assert shares.sum() == size
    if size <= 21:
        assert shares.max() - shares.min() <= 1
    else:
        assert shares[2] == 7 and abs(shares[0] - shares[1]) <= 1
    assert sorted(deal(labels, 0)) == list(range(47))


def test_lists_are_nested_and_follow_the_seed(tmp_path):
    root = str(tree(tmp_path / "train"))
    small, large = subset_list(root, 10), subset_list(root, 50)
    assert large[:len(small)] == small and (len(small), len(large)) == (5, 24)
    assert subset_list(root, 10) == small and subset_list(root, 10, seed=1) != small
    assert len(subset_list(root, 0.1)) == 3  # one a class at least
    for percent in (0, 101):
        with pytest.raises(DataError, match="above 0"):
            subset_list(root, percent)


@pytest.mark.parametrize("names, bare", [("{label}_{number}.png", True), ("{number}.png", False)])
def test_lists_are_read_by_the_few_shot_dataset(tmp_path, repository, names, bare):
    root = tree(tmp_path / "train", names)
    done = subprocess.run([sys.executable, repository / "tools/make_subset.py", str(root), "--percent", "10", "50"],
                          capture_output=True, text=True)
    assert done.returncode == 0 and "5 images" in done.stdout
    listed = tmp_path / "50percent.txt"
    assert ("/" not in listed.read_text()) == bare
    dataset = FewShotDataset(str(root), str(listed))
    assert len(dataset) == 24 and dataset.classes == ["n00", "n01", "n02"]
    for index in range(24):
        image, label, _ = dataset[(0, index)]
        assert (image == label).all()  # the label is the class of the very image
