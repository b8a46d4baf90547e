"""What a folder is taken for: which files are images, what was left out, class folders that are none."""
from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image

from passl.data.decode import read_image
from passl.data.folders import image_suffixes, is_image
from passl.data.sources import find_image_files
from passl.errors import DataError
from tests.data.shared import touch


@pytest.fixture
def told(caplog):
    """What `find_image_files` logs, with its level: told(root, labelled) -> [(level, text)]."""
    def call(*arguments, **options):
        caplog.clear()
        with caplog.at_level("INFO", "passl"):
            find_image_files(*arguments, **options)
        return [(record.levelname, record.getMessage()) for record in caplog.records]
    return call


def encoded(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full([8, 8, 3], 90, np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


CONTENTS = {kind: encoded(kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP")
            + tuple(kind for kind in ("AVIF", "JPEG2000") if kind in Image.SAVE)}


# ------------------------------------------------------------------------------------------------ which are images
@pytest.mark.parametrize("suffix", image_suffixes())
def test_every_suffix_that_is_read_is_found_and_decoded(tmp_path, suffix):
    kind = Image.registered_extensions().get(suffix)
    if kind not in Image.SAVE:
        pytest.skip(f"Pillow cannot write {suffix} here")
    path = tmp_path / f"cat/1{suffix.upper()}"
    path.parent.mkdir()
    path.write_bytes(encoded(kind))
    samples = find_image_files(str(tmp_path), labelled=True)
    assert [samples.path(0)] == [str(path)] and is_image(str(path))
    image = read_image(str(path))
    assert image.shape == (8, 8, 3) and (suffix == ".pbm" or abs(int(image.mean()) - 90) <= 3)


def test_gif_and_avif_are_among_them():
    assert {".gif", ".jfif"} <= set(image_suffixes())
    assert (".avif" in image_suffixes()) == ("AVIF" in Image.OPEN)


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(np.full([8, 8, 3], value, np.uint8)) for value in (200, 10)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert read_image(str(tmp_path / "two.gif")).mean() == 200


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_file_without_suffix_is_what_it_begins_like(tmp_path, kind):
    touch(tmp_path, "cat/README", "cat/LICENSE")
    (tmp_path / "cat/README").write_text("BMW and P5 cars; II is two\n")
    (tmp_path / "cat/3f9a0c").write_bytes(CONTENTS[kind])
    samples = find_image_files(str(tmp_path), labelled=True)
    assert [os.path.basename(samples.path(index)) for index in range(len(samples))] == ["3f9a0c"]
    assert is_image(str(tmp_path / "cat/3f9a0c")) and not is_image(str(tmp_path / "cat/README"))


# ----------------------------------------------------------------------------------------------- what was left out
def test_one_line_says_what_was_found(tmp_path, told):
    touch(tmp_path, "ant/1.jpg", "bee/1.png", "bee/2.png", "bee/notes.txt", ".hidden/1.mov", "bee/.hidden.mov")
    assert told(str(tmp_path), True) == [
        ("INFO", f"{tmp_path}: 3 images in 2 classes; left out by suffix: 1 .txt")]


def test_a_class_whose_files_are_left_out_is_a_warning(tmp_path, told):
    touch(tmp_path, "ant/1.jpg", "bee/1.mov", "bee/2.MOV", "bee/3.tar.gz", "cow/deep/x.txt")
    assert told(str(tmp_path), True) == [
        ("WARNING", f"{tmp_path}: 1 image in 1 class; left out by suffix: 2 .mov, 1 .gz, 1 .txt; "
                    "sub-folders without an image: bee, cow")]


def test_a_folder_of_other_files_says_which_they_are(tmp_path):
    touch(tmp_path, "ant/1.mov", "ant/2.mov")
    with pytest.raises(DataError, match="no images found.*left out by suffix: 2 .mov"):
        find_image_files(str(tmp_path), True)


def test_lists_and_single_images_are_counted_as_well(tmp_path, told):
    touch(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "list.txt").write_text("1.jpg 4\n2.jpg 7\n")
    assert told(str(tmp_path / "list.txt"), True) == [("INFO", f"{tmp_path}/list.txt: 2 images in 2 classes")]
    assert told(str(tmp_path), False) == [
        ("INFO", f"{tmp_path}: 2 images without classes; left out by suffix: 1 .txt")]


# ------------------------------------------------------------------------------ classes that are not what they seem
@pytest.mark.parametrize("splits", [
    ("train", "val"), ("train", "val", "test"), ("Train", "Validation"), ("training", "validation"),
    ("train", "test", "unlabeled"), ("seg_train", "seg_test", "seg_pred"), ("train2017", "val2017"),
    ("train_images", "test_images"), ("trainval", "test")])
def test_splits_as_classes_are_refused_for_training_and_said_elsewhere(tmp_path, told, splits):
    for split in splits:
        touch(tmp_path, f"{split}/n01/1.jpg")
    train = next(split for split in splits if "train" in split.lower())
    with pytest.raises(DataError, match=f"only classes are .*validation images would be .* set root to .*/{train} "):
        find_image_files(str(tmp_path), labelled=False)
    (level, text), = told(str(tmp_path), False, strict=False)[1:]
    assert level == "WARNING" and "look like a split" in text


def test_the_root_that_is_advised_lies_below_all_splits(tmp_path):
    touch(tmp_path, "seg_train/seg_train/forest/1.jpg", "seg_test/seg_test/forest/1.jpg")
    with pytest.raises(DataError, match="set root to .*/seg_train/seg_train "):
        find_image_files(str(tmp_path), labelled=False)


@pytest.mark.parametrize("classes, named", [(("train", "cat"), "train"), (("train",), "train"),
                                            (("cat", "dog", "test", "valid"), "test and valid")])
def test_some_classes_that_look_like_splits_are_a_warning(tmp_path, told, classes, named):
    for name in classes:
        touch(tmp_path, f"{name}/1.jpg")
    (level, text), = told(str(tmp_path), True)[1:]
    assert level == "WARNING" and f"{tmp_path}: {named} of {len(classes)} classes look" in text


@pytest.mark.parametrize("classes", [("test_tube", "training_shoe"), ("evaluation", "trains"), ("valley", "devil")])
def test_words_that_only_begin_like_splits_are_classes(tmp_path, told, classes):
    for name in classes:
        touch(tmp_path, f"{name}/1.jpg")
    assert [level for level, _ in told(str(tmp_path), True)] == ["INFO"]


def test_a_stray_image_beside_class_folders_is_named(tmp_path, told):
    touch(tmp_path, "ant/1.jpg", "ant/2.jpg", "bee/1.jpg", "logo.png")
    with pytest.raises(DataError, match="images without classes; logo.png beside the class folders must be removed"):
        find_image_files(str(tmp_path), labelled=True)
    assert told(str(tmp_path), False) == [
        ("WARNING", f"{tmp_path}: 4 images without classes; because of logo.png beside the class folders")]
    touch(tmp_path, "map.png")
    with pytest.raises(DataError, match="logo.png and 1 more beside the class folders"):
        find_image_files(str(tmp_path), labelled=True)


# ----------------------------------------------------------------------------------------------------- several roots
def test_roots_that_lie_in_one_another_are_refused(tmp_path, told):
    touch(tmp_path, "data/train/ant/1.jpg", "data/train/bee/1.jpg", "data/train/bee/2.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "data/train")
    for inner in (tmp_path / "data/train", tmp_path / "link"):
        for roots in ([tmp_path / "data", inner], [inner, tmp_path / "data"]):
            with pytest.raises(DataError, match="share 3 images, which count twice: one root lies in the other"):
                find_image_files([str(root) for root in roots], labelled=False)
    again = [str(tmp_path / "data/train")] * 2  # weighs these images more, perhaps on purpose
    assert ("WARNING", f"{again[0]} and {again[0]} share 3 images, which count twice") in told(again, True)


def test_a_line_break_in_a_class_name_is_refused(tmp_path):
    touch(tmp_path, "two\nlines/1.jpg", "ant/1.jpg")
    with pytest.raises(DataError, match="holds a line break"):
        find_image_files(str(tmp_path), labelled=True)


def test_a_pipe_is_said_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "one.jpg")
    samples = find_image_files(str(tmp_path), labelled=False)
    with pytest.raises(DataError, match="one.jpg: not a file but a pipe or device"):
        read_image(samples.path(0))
    os.mkfifo(tmp_path / "list")
    with pytest.raises(DataError, match="list: neither a file nor a folder"):
        find_image_files(str(tmp_path / "list"), labelled=False)
