from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from passl.data.datasets import FewShotDataset, ImageFolder, ImageNetDataset, SwAVMultiCropDataset
from passl.data.random_streams import stream_key
from passl.errors import DataError, UserError
from passl.registry import DATASETS
from tests.data.conftest import photo

CROPS = dict(size_crops=[32, 16], num_crops=[2, 3], min_scale_crops=[0.3, 0.05], max_scale_crops=[1.0, 0.3])


def test_multi_crop_sample(image_tree):
    dataset = SwAVMultiCropDataset(str(image_tree), **CROPS)
    crops, index = dataset[(0, 5)]
    assert [crop.shape for crop in crops] == [(32, 32, 3)] * 2 + [(16, 16, 3)] * 3 and index == 5
    assert len(dataset) == 12 and dataset.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.classes == ["ant", "bee", "cat"]
    assert dataset.normalization == ((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))


def test_draws_depend_on_seed_epoch_and_index(image_tree):
    def crops(seed, epoch, index):
        dataset = SwAVMultiCropDataset(str(image_tree), seed=seed, **CROPS)
        return np.concatenate([crop.ravel() for crop in dataset[(epoch, index)][0]])

    reference = crops(1, 2, 3)
    np.testing.assert_array_equal(reference, crops(1, 2, 3))
    assert all((reference != crops(*other)).any() for other in ((0, 2, 3), (1, 3, 3), (1, 2, 4)))


def test_large_jpeg_files_are_read_reduced_for_crops_and_whole_for_evaluation(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(photo(3, 600, 900)).save(tmp_path / "a" / "large.jpg", quality=95)
    dataset = SwAVMultiCropDataset(str(tmp_path), **CROPS)
    image, _ = dataset.read(0, 0, dataset.transform.reduction)
    assert image.shape == (150, 225, 3)
    expected = dataset.transform(image, stream_key(0, 0, 0))
    assert all((crop == other).all() for crop, other in zip(dataset[(0, 0)][0], expected))
    assert ImageFolder(str(tmp_path))[(0, 0)][0].shape == (600, 900, 3)


def test_passl_yaml_keys_are_accepted():
    parameters = DATASETS.parameters("SwAVMultiCropDataset")
    assert [name for name, parameter in parameters.items() if parameter.required] == ["root", *CROPS]
    assert "seed" not in parameters and parameters["blur_sigma"].default == (0.1, 2.0)


def test_size_dataset_takes_the_first_files(image_tree):
    assert len(SwAVMultiCropDataset(str(image_tree), size_dataset=5, **CROPS)) == 5


@pytest.mark.parametrize("change, said", [
    (dict(num_crops=[2]), r"one entry each in all four lists, got size_crops \[32, 16\], num_crops \[2\]"),
    (dict(size_dataset=0), "size_dataset is 0; a number of files from 1, or -1 for all"),
    (dict(size_dataset=-5), "size_dataset is -5; a number of files"),
    (dict(num_crops=[2, 0]), "size_crops 16 with num_crops 0"),
    (dict(min_scale_crops=[0.3, 0.5]), r"crop scale \[0.5, 0.3\] must satisfy"),
    (dict(flip_probability=1.5), "flip_probability is 1.5; a probability lies between 0 and 1"),
    (dict(blur_sigma=[2.0, 0.1]), "blur_sigma is .2.0, 0.1.; .* smallest first"),
    (dict(blur_sigma=[1.0]), "blur_sigma is .1.0.; expected two standard deviations"),
    (dict(aspect_ratio=[0, 1]), "aspect_ratio is .0, 1.; expected the smallest and the largest"),
    (dict(aspect_ratio=[2, 1]), "aspect_ratio is .2, 1.; expected the smallest and the largest"),
    (dict(aspect_ratio=[1]), "aspect_ratio is .1.; expected the smallest and the largest"),
    (dict(brightness=-1), "brightness is -1; a strength is at least 0"),
    (dict(hue=0.4, jitter_strength=1.5), "hue x jitter_strength is 0.6"),
    (dict(image_errors="ignore"), "image_errors: 'ignore' is not one of error, skip")])
def test_bad_values(image_tree, change, said):
    with pytest.raises(UserError, match=said):
        SwAVMultiCropDataset(str(image_tree), **{**CROPS, **change})


def test_image_folder(image_tree):
    dataset = ImageFolder(str(image_tree), transform=[{"CenterCrop": {"size": 16}}, {"ToTensor": None}])
    image, label, index = dataset[(0, 9)]
    assert image.shape == (16, 16, 3) and (label, index) == (2, 9)


def test_imagenet_list(image_tree, tmp_path):
    (tmp_path / "list.txt").write_text("cat/1.jpg 8\nant/0.jpg 3\n")
    dataset = ImageNetDataset(str(image_tree), str(tmp_path / "list.txt"), transform=[{"Resize": {"size": [8, 8]}}])
    assert dataset[(0, 0)][1] == 8 and dataset[(0, 1)][0].shape == (8, 8, 3)


def test_few_shot_labels_agree_with_the_full_tree(image_tree, tmp_path):
    for name in ("ant", "cat"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "tree" / name / f"{name}_1.jpg")
    (tmp_path / "1percent.txt").write_text("cat_1.jpg\n")
    full = ImageFolder(str(tmp_path / "tree"))
    few = FewShotDataset(str(tmp_path / "tree"), str(tmp_path / "1percent.txt"))
    assert few[(0, 0)][1] == full[(0, 1)][1] == 1 and few.classes == full.classes


@pytest.fixture
def damaged(tmp_path):
    for number in range(6):
        Image.new("RGB", (40, 40), (40 * number, 0, 0)).save(tmp_path / f"{number}.jpg")
    (tmp_path / "2.jpg").write_bytes(b"")
    (tmp_path / "4.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:200])
    return tmp_path


def test_a_bad_file_stops_with_its_name_and_the_way_out(damaged):
    dataset = SwAVMultiCropDataset(str(damaged), **CROPS)
    with pytest.raises(DataError, match="2.jpg: the file is empty; dataset.image_errors: skip would"):
        dataset[(0, 2)]


def test_skip_replaces_and_lists(damaged):
    dataset = SwAVMultiCropDataset(str(damaged), image_errors="skip", **CROPS)
    results = [dataset[(0, index)] for index in range(6)]
    assert [index for _, index in results if index in (2, 4)] == []
    assert [results[index][1] for index in (0, 1, 3, 5)] == [0, 1, 3, 5]
    assert sorted(os.path.basename(path) for path in dataset.skipped) == ["2.jpg", "4.jpg"]
    again = SwAVMultiCropDataset(str(damaged), image_errors="skip", **CROPS)
    crops, index = again[(0, 2)]
    assert index == results[2][1] and all((a == b).all() for a, b in zip(crops, results[2][0]))
    assert {again[(epoch, 2)][1] for epoch in range(40)} == {0, 1, 3, 5}


def test_skip_gives_up_when_nothing_can_be_read(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.jpg").touch()
    dataset = SwAVMultiCropDataset(str(tmp_path), image_errors="skip", **CROPS)
    with pytest.raises(DataError, match="100 replacements drawn at random cannot be read; the last: .*is empty"):
        dataset[(0, 0)]
