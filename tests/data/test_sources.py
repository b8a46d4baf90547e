from __future__ import annotations

import os

import pytest

from passl.data.sources import ImageFiles, few_shot_list, find_image_files, labelled_list
from passl.errors import DataError
from tests.data.shared import touch


def names(samples, root):
    return [os.path.relpath(samples.path(index), root) for index in range(len(samples))]


def test_class_tree(tmp_path):
    touch(tmp_path, "b/2.jpg", "b/10.JPEG", "a/x.png", "a/deep/er/y.webp", "a/notes.txt", "a/.hidden.jpg")
    samples = find_image_files(str(tmp_path), labelled=True)
    assert names(samples, tmp_path) == ["a/deep/er/y.webp", "a/x.png", "b/10.JPEG", "b/2.jpg"]
    assert samples.labels.tolist() == [0, 0, 1, 1] and samples.classes == ["a", "b"]


def test_order_compares_whole_components_not_bytes_of_paths(tmp_path):
    touch(tmp_path, "a-b/1.jpg", "a/2.jpg")  # '-' sorts before '/', so plain string order would mix the folders
    assert names(find_image_files(str(tmp_path), False), tmp_path) == ["a/2.jpg", "a-b/1.jpg"]


def test_flat_and_mixed_folders_have_no_labels(tmp_path):
    touch(tmp_path, "flat/2.jpg", "flat/1.jpg")
    touch(tmp_path, "mixed/sub/2.jpg", "mixed/1.jpg")
    for folder in ("flat", "mixed"):
        samples = find_image_files(str(tmp_path / folder), labelled=False)
        assert samples.labels.tolist() == [-1, -1] and samples.classes == []
        with pytest.raises(DataError, match=f"{folder}: images without classes"):
            find_image_files(str(tmp_path / folder), labelled=True)


def test_several_roots_merge_classes_by_name(tmp_path):
    touch(tmp_path, "one/cat/1.jpg", "one/dog/2.jpg", "two/ant/3.jpg", "two/cat/4.jpg")
    samples = find_image_files([str(tmp_path / "one"), str(tmp_path / "two")], labelled=True)
    assert samples.classes == ["ant", "cat", "dog"] and samples.labels.tolist() == [1, 2, 0, 1]


def test_roots_with_and_without_labels(tmp_path):
    touch(tmp_path, "one/cat/1.jpg", "two/3.jpg")
    samples = find_image_files([str(tmp_path / "one"), str(tmp_path / "two")], labelled=False)
    assert samples.labels.tolist() == [0, -1]


def test_list_files(tmp_path):
    touch(tmp_path, "a/2.jpg", "b/my photo 1.jpg", "b/my photo.jpg")
    (tmp_path / "plain.txt").write_text("b/my photo 1.jpg\n\na/2.jpg\n")
    samples = find_image_files(str(tmp_path / "plain.txt"), labelled=False)
    assert names(samples, tmp_path) == ["b/my photo 1.jpg", "a/2.jpg"] and samples.labels.tolist() == [-1, -1]
    (tmp_path / "marked.txt").write_text("a/2.jpg\n", encoding="utf-8-sig")  # as some editors on Windows save it
    assert names(find_image_files(str(tmp_path / "marked.txt"), False), tmp_path) == ["a/2.jpg"]
    (tmp_path / "labelled.txt").write_text("b/my photo.jpg 7\n/elsewhere/2.jpg\t3\n")
    samples = find_image_files(str(tmp_path / "labelled.txt"), labelled=True)
    assert samples.path(1) == "/elsewhere/2.jpg" and samples.labels.tolist() == [7, 3]


def test_symbolic_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "real/1.jpg")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path / "tree")
    assert names(find_image_files(str(tmp_path / "tree"), False), tmp_path / "tree") == ["linked/1.jpg"]


def test_missing_and_empty_roots(tmp_path):
    with pytest.raises(DataError, match="data root .*nowhere does not exist .looked from .*dataset.root"):
        find_image_files(str(tmp_path / "nowhere"), False)
    touch(tmp_path, "empty/readme.txt")
    with pytest.raises(DataError, match="empty: no images found; looked .* for .jpg"):
        find_image_files(str(tmp_path / "empty"), False)
    with pytest.raises(DataError, match="root is an empty list"):
        find_image_files([], False)


def test_image_given_as_list(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 binary")
    with pytest.raises(DataError, match="photo.jpg: not a text file"):
        find_image_files(str(tmp_path / "photo.jpg"), False)


def test_paths_survive_any_file_name():
    paths = ["plain", "späce ünd 漢字.jpg", os.fsdecode(b"not\xffutf8.jpg"), ""]
    assert [ImageFiles(paths).path(index) for index in range(4)] == paths


def test_first_keeps_classes(tmp_path):
    touch(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg")
    first = find_image_files(str(tmp_path), True).first(2)
    assert len(first) == 2 and first.classes == ["a", "b"] and first.labels.tolist() == [0, 0]


def test_labelled_list(tmp_path):
    images = tmp_path / "images"
    touch(images, "val/1.jpg", "val/2.jpg")
    (tmp_path / "list.txt").write_text("val/1.jpg 5\nval/2.jpg 0\n")
    samples = labelled_list(str(images), str(tmp_path / "list.txt"))
    assert samples.path(0) == f"{images}/val/1.jpg" and samples.labels.tolist() == [5, 0]
    (tmp_path / "bare.txt").write_text("val/1.jpg\n")
    with pytest.raises(DataError, match="bare.txt:1: 'val/1.jpg' is not 'path label'"):
        labelled_list(str(images), str(tmp_path / "bare.txt"))
    (tmp_path / "bad.txt").write_text("val/1.jpg five\n")
    with pytest.raises(DataError, match="bad.txt:1: 'val/1.jpg five' names no file.*'five' after the path is no label"):
        labelled_list(str(images), str(tmp_path / "bad.txt"))
    with pytest.raises(DataError, match="label list .*gone.txt does not exist"):
        labelled_list("/images", str(tmp_path / "gone.txt"))


def test_few_shot_labels_count_all_classes_of_the_tree(tmp_path):
    touch(tmp_path, "n01/n01_1.JPEG", "n02/n02_1.JPEG", "n03/n03_9.JPEG")
    (tmp_path / "list.txt").write_text("n03_9.JPEG\nn01_1.JPEG\n")
    samples = few_shot_list(str(tmp_path), str(tmp_path / "list.txt"))
    assert names(samples, tmp_path) == ["n03/n03_9.JPEG", "n01/n01_1.JPEG"] and samples.labels.tolist() == [2, 0]


def test_few_shot_errors(tmp_path):
    touch(tmp_path, "n01/n01_1.JPEG")
    with pytest.raises(DataError, match="does not exist. The lists .* SimCLR .*12811 lines, sha256 71e82a48ba782526"):
        few_shot_list(str(tmp_path), str(tmp_path / "10percent.txt"))
    (tmp_path / "list.txt").write_text("n01_1.JPEG\nn09_1.JPEG\n")
    with pytest.raises(DataError, match="list.txt:2: 'n09_1.JPEG' belongs to class 'n09', and .* no such sub-folder"):
        few_shot_list(str(tmp_path), str(tmp_path / "list.txt"))
    with pytest.raises(DataError, match="data root .*gone does not exist"):
        few_shot_list(str(tmp_path / "gone"), str(tmp_path / "list.txt"))


def test_the_log_tells_published_lists_from_others(tmp_path, caplog, monkeypatch):
    import hashlib

    from passl.data import sources as samples

    for number in range(1000):
        (tmp_path / f"n{number:08d}").mkdir()
    listed = tmp_path / "1percent.txt"
    listed.write_text("n00000000_1.JPEG\n")
    touch(tmp_path, "n00000000/n00000000_1.JPEG")
    with caplog.at_level("INFO", "passl"):
        few_shot_list(str(tmp_path), str(listed))
        assert "is not one of the published lists" in caplog.text
        caplog.clear()
        start = hashlib.sha256(listed.read_bytes()).hexdigest()[:16]
        monkeypatch.setitem(samples._PUBLISHED_LISTS, "1percent.txt", (1, start))
        few_shot_list(str(tmp_path), str(listed))
        assert "is SimCLR's 1percent.txt" in caplog.text
