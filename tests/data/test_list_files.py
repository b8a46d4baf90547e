"""List files: what is wrong with one is said with its line and the likely cause; numbers beside folder names."""
from __future__ import annotations

import os

import pytest

from passl.data.sources import find_image_files, labelled_list
from passl.errors import DataError
from tests.data.shared import touch


@pytest.fixture
def folder(tmp_path):
    touch(tmp_path, "ant/1.jpg", "ant/2.jpg", "bee/1.jpg")
    return tmp_path


def listed(folder, content, encoding="utf-8"):
    path = folder / "list.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return str(path)


@pytest.mark.parametrize("content, said", [
    ("ant/1.jpg 1\nant/2.jpg\n", r"list.txt:2: 'ant/2.jpg' lacks a label while line 1 has one"),
    ("ant/1.jpg\nant/2.jpg 1\n", r"list.txt:2: 'ant/2.jpg 1' has a label while line 1 has none"),
    ("\n \n", "the list is empty"),
    ("ant/1.jpg,0\nbee/1.jpg,1\n", r"list.txt:1: 'ant/1.jpg,0' names no file.*a comma stands between the columns"),
    ("path,label\nant/1.jpg,0\nbee/1.jpg,1\n", r"list.txt:2: .*a comma stands between the columns"),
    ('"ant/1.jpg" 0\n"bee/1.jpg" 1\n', "list.txt:1: .*write paths without quotes"),
    ("'ant/1.jpg'\n'bee/1.jpg'\n", "list.txt:1: .*write paths without quotes"),
    ("path label\nant/1.jpg 0\nbee/1.jpg 1\n", "list.txt:1: 'path label' looks like a header"),
    ("filename\nant/1.jpg\nbee/1.jpg\n", "list.txt:1: 'filename' looks like a header"),
    ("ant\\1.jpg 0\nbee\\1.jpg 1\n", r"list.txt:1: .*write paths with / instead of \\"),
    ("ant/1.jpg ant\nbee/1.jpg bee\n", "list.txt:1: .*'ant' after the path is no label: write a whole number"),
    ("ant/1.jpg\tant\nbee/1.jpg\tbee\n", "list.txt:1: .*'ant' after the path is no label"),
    ("ant/1.jpg -1\nbee/1.jpg -1\n", "list.txt:1: .*'-1' after the path is no label"),
    ("ant/1.jpg 1.0\nbee/1.jpg 0.0\n", "list.txt:1: .*'1.0' after the path is no label"),
    ("ant/1.jpg ²\nbee/1.jpg ²\n", "list.txt:1: .*'²' after the path is no label"),
    ("elsewhere/1.jpg 0\n", "list.txt:1: .*paths are relative to .*: write them so, or absolute"),
    ("caf\xe9/1.jpg 0\n".encode("latin-1"), "list.txt:1: .*the list is not UTF-8"),
    ("ant/1.jpg 0\n".encode("utf-16"), "list.txt: UTF-16 text; save it as UTF-8"),
    ("ant/1.jpg 0\n".encode("utf-16-le"), "list.txt: not a text file"),
    ("ant/1.jpg 100000000\nant/2.jpg 300000000\nbee/1.jpg 200000000\n",
     "labels up to 300000000 for 3 distinct ones; number the classes from 0 to 2"),
    (f"ant/1.jpg {2**64}\nbee/1.jpg 0\n", f"labels up to {2**64} for 2 distinct ones"),
])
def test_a_malformed_list_is_explained(folder, content, said):
    for read in (lambda path: find_image_files(path, labelled=False),
                 lambda path: labelled_list(str(folder), path)):
        with pytest.raises(DataError, match=said) as caught:
            read(listed(folder, content))
        assert "image_errors" not in str(caught.value)  # it would leave out every line


def test_what_only_looks_strange_is_read(folder):
    touch(folder, "a, b/my \"photo\" 1.jpg", "ant/back\\slash.jpg", "ant/x.jpg 7")
    lines = ["a, b/my \"photo\" 1.jpg", "ant/back\\slash.jpg", "ant/1.jpg", "gone.jpg"]
    samples = find_image_files(listed(folder, "\r\n".join(lines)), labelled=False)  # a missing one may be skipped
    assert [os.path.relpath(samples.path(index), folder) for index in range(4)] == lines
    assert find_image_files(listed(folder, "ant/1.jpg 21840\nbee/1.jpg 3\n"), True).labels.tolist() == [21840, 3]


def test_names_in_a_list_may_hold_any_byte(folder):
    name = os.fsdecode(b"caf\xe9.jpg")
    touch(folder, name)
    samples = find_image_files(listed(folder, b"caf\xe9.jpg 0\nant/1.jpg 1\n"), labelled=True)
    assert samples.path(0) == os.path.join(str(folder), name) and os.path.exists(samples.path(0))


def test_home_in_a_list(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    touch(folder, "~backup.jpg")
    samples = find_image_files(listed(folder, "~/ant/1.jpg\n~backup.jpg\n"), labelled=False)
    assert [samples.path(0), samples.path(1)] == [f"{folder}/ant/1.jpg", f"{folder}/~backup.jpg"]


# --------------------------------------------------------------------------------------- numbers beside folder names
@pytest.mark.parametrize("names, labels, classes, expected", [
    (["1", "2", "10"], [10, 1], ["1", "10", "2"], [0, 1, 2, 1, 0]),  # folders in the order of names, numbers by value
    (["001", "002", "010"], [10, 1], ["001", "002", "010"], [0, 1, 2, 2, 0]),
    (["0", "1", "2"], [7, 1], ["0", "1", "2", "7"], [0, 1, 2, 3, 1])])
def test_numbers_of_a_list_are_folders_called_by_them(tmp_path, names, labels, classes, expected):
    touch(tmp_path, *(f"tree/{name}/1.jpg" for name in sorted(names)), "a.jpg", "b.jpg")
    (tmp_path / "list.txt").write_text("".join(f"{name}.jpg {label}\n" for name, label in zip("ab", labels)))
    for roots, order in ((["tree", "list.txt"], expected), (["list.txt", "tree"], expected[3:] + expected[:3])):
        samples = find_image_files([str(tmp_path / root) for root in roots], labelled=True)
        assert samples.classes == classes and samples.labels.tolist() == order


@pytest.mark.parametrize("names", [("ant", "bee"), ("0", "bee"), ("1", "01")])
def test_numbers_beside_other_names_are_refused(tmp_path, names, caplog):
    touch(tmp_path, *(f"tree/{name}/1.jpg" for name in names), "a.jpg")
    (tmp_path / "list.txt").write_text("a.jpg 1\n")
    roots = [str(tmp_path / "list.txt"), str(tmp_path / "tree")]
    with pytest.raises(DataError, match="tree has class folders and .*list.txt has numbers.*sort the files of .*list"):
        find_image_files(roots, labelled=False)
    assert find_image_files(roots, labelled=False, strict=False).labels.tolist() == [-1, -1, -1]
    assert "the images count as unlabelled" in caplog.text
