from __future__ import annotations

import logging
import re

import numpy as np
import pytest
from PIL import Image

from passl.data import build_loader
from passl.errors import DataError

CROPS = dict(name="SwAVMultiCropDataset", size_crops=[24, 12], num_crops=[2, 2], min_scale_crops=[0.3, 0.05],
             max_scale_crops=[1.0, 0.3])


def multi_crop(root, batch_size=3, num_workers=0, seed=4, rank=0, world_size=1, **dataset):
    sampler = {"name": "DistributedBatchSampler", "batch_size": batch_size, "shuffle": True, "drop_last": True}
    section = {"dataset": dict(CROPS, root=str(root), **dataset), "sampler": sampler,
               "loader": {"num_workers": num_workers}}
    return build_loader(section, seed=seed, rank=rank, world_size=world_size)


def labelled(root, batch_size=5, num_workers=0, rank=0, world_size=1, **dataset):
    defaults = {"name": "ImageFolder", "root": str(root), "transform": [{"Resize": {"size": [16, 16]}}]}
    section = {"dataset": {**defaults, **dataset}, "loader": {"num_workers": num_workers},
               "sampler": {"name": "DistributedBatchSampler", "batch_size": batch_size}}
    return build_loader(section, seed=0, rank=rank, world_size=world_size)


def assert_equal_batches(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a["index"], b["index"])
        for x, y in zip(a["crops"], b["crops"]):
            np.testing.assert_array_equal(x, y)


def test_multi_crop_batches(image_tree):
    loader = multi_crop(image_tree, 5)
    batches = list(loader.epoch(0))
    assert len(loader) == len(batches) == 2 and loader.global_batch_size == 5
    assert [crop.shape for crop in batches[0]["crops"]] == [(5, 24, 24, 3)] * 2 + [(5, 12, 12, 3)] * 2
    assert all(crop.dtype == np.uint8 and crop.flags.c_contiguous for crop in batches[0]["crops"])
    assert batches[0]["index"].dtype == np.int64
    crops, index = loader.dataset[(0, int(batches[1]["index"][2]))]
    np.testing.assert_array_equal(batches[1]["crops"][3][2], crops[3])


def test_epochs_differ_and_do_not_depend_on_history(image_tree):
    loader = multi_crop(image_tree)
    first, second = list(loader.epoch(0)), list(loader.epoch(1))
    assert (first[0]["crops"][0] != second[0]["crops"][0]).any()
    assert_equal_batches(list(multi_crop(image_tree).epoch(1)), second)


def test_augmentation_epoch_keeps_the_order_and_changes_the_crops(image_tree):
    loader = multi_crop(image_tree)
    for epoch in (0, 2):
        own, other = list(loader.epoch(epoch)), list(loader.epoch(epoch, augmentation_epoch=-1))
        for batch, again in zip(own, other):
            np.testing.assert_array_equal(batch["index"], again["index"])
            assert all((a != b).any() for a, b in zip(batch["crops"], again["crops"]))
        index = int(other[1]["index"][2])
        np.testing.assert_array_equal(other[1]["crops"][3][2], loader.dataset[(-1, index)][0][3])


@pytest.mark.dist
@pytest.mark.parametrize("workers", [1, 3])
def test_number_of_workers_changes_nothing(image_tree, workers):
    loader = multi_crop(image_tree, num_workers=workers)
    for epoch in (0, 1):
        assert_equal_batches(list(loader.epoch(epoch)), list(multi_crop(image_tree).epoch(epoch)))
    loader.close()


def test_number_of_ranks_changes_nothing(image_tree):
    alone = list(multi_crop(image_tree, 6).epoch(2))
    ranks = [list(multi_crop(image_tree, 3, rank=rank, world_size=2).epoch(2)) for rank in range(2)]
    for iteration, batch in enumerate(alone):
        for number, crop in enumerate(batch["crops"]):
            joined = np.stack([ranks[rank][iteration]["crops"][number] for rank in range(2)], axis=1)
            np.testing.assert_array_equal(joined.reshape(crop.shape), crop)


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_start_iteration(image_tree, start):
    assert_equal_batches(list(multi_crop(image_tree).epoch(1, start)), list(multi_crop(image_tree).epoch(1))[start:])


@pytest.mark.dist
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_asked_for_batch_by_batch(image_tree, workers, monkeypatch):
    loader, asked = multi_crop(image_tree, 1, num_workers=workers), []
    order = loader.sampler.epoch
    monkeypatch.setattr(loader.sampler, "epoch",
                        lambda *position: (asked.append(1) or batch for batch in order(*position)))
    batches = loader.epoch(0)
    for taken in range(1, 5):
        next(batches)
        assert len(asked) <= taken + loader.prefetch_batches + 1 < len(loader)
    assert taken + len(list(batches)) == len(asked) == len(loader) == 12
    loader.close()


def test_batches_belong_to_the_caller(image_tree):
    loader = multi_crop(image_tree)
    iterator = loader.epoch(0)
    first = next(iterator)
    copy = first["crops"][0].copy()
    list(iterator)
    np.testing.assert_array_equal(first["crops"][0], copy)


def test_evaluation_marks_padding(image_tree):
    ranks = [list(labelled(image_tree, 2, rank=rank, world_size=5).epoch(0)) for rank in range(5)]
    assert [[len(batch["label"]) for batch in batches] for batches in ranks] == [[2, 1]] * 5
    valid = [(int(i), int(label)) for batches in ranks for batch in batches
             for i, label, ok in zip(batch["index"], batch["label"], batch["valid"]) if ok]
    assert sorted(valid) == [(index, index // 4) for index in range(12)]


def test_replaced_images_are_not_valid(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("passl"), "propagate", True)  # a run of another test may have ended it
    for number in range(4):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "a" / f"{number}.png")
    (tmp_path / "a" / "2.png").write_bytes(b"")
    loader = labelled(tmp_path, image_errors="skip")
    with caplog.at_level("ERROR", "passl"):  # the level that every rank logs
        batch, = loader.epoch(0)
    message, = {record.getMessage() for record in caplog.records if record.levelname == "ERROR"}
    assert re.fullmatch(r"skipped .*2.png: the file is empty \(bad file 1 so far\)", message)
    assert batch["valid"].tolist() == [True, True, False, True] and len(loader.skipped) == 1


def test_images_of_different_sizes_are_explained(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "a" / "1.png")
    Image.new("RGB", (30, 10)).save(tmp_path / "a" / "2.png")
    with pytest.raises(DataError, match="2.png: image is 30 x 10 after the transforms while others are 20 x 10; end"):
        list(labelled(tmp_path, transform=[]).epoch(0))


def test_fewer_images_than_a_global_batch(image_tree):
    with pytest.raises(DataError, match="12 images make no whole batch: batch_size 8 x 2 .*zero iterations"):
        multi_crop(image_tree, 8, world_size=2)


@pytest.mark.parametrize("loader, said", [
    ({"num_worker": 2}, r"unknown key loader.num_worker \(did you mean 'num_workers'\?\)"),
    ({"num_workers": -1}, "num_workers -1 must be at least 0"),
    ({"prefetch_batches": 0}, "prefetch_batches 0 at least 1")])
def test_bad_loader_sections(image_tree, loader, said):
    section = {"dataset": dict(CROPS, root=str(image_tree)), "loader": loader}
    with pytest.raises(DataError, match=said):
        build_loader(section, seed=0)


def test_accumulation_must_divide_the_batch(image_tree):
    section = {"dataset": dict(CROPS, root=str(image_tree)), "sampler": {"name": "BatchSampler", "batch_size": 4}}
    with pytest.raises(DataError, match="batch_size 4 is not divisible by 3"):
        build_loader(section, seed=0, batch_size_divisor=3)
    assert build_loader(section, seed=0, batch_size_divisor=2).batch_size == 4


def test_normalizer_has_the_constants_of_the_dataset(image_tree):
    assert multi_crop(image_tree, mean=[0.1, 0.2, 0.3], std=[1, 2, 3]).normalizer.mean == (0.1, 0.2, 0.3)
