"""Where a dataset's images are: class trees, flat or nested folders, list files, and several of them together.

A source is anything with `read(index)`, the bytes of an encoded image, `name(index)`, what errors and lists call it,
`labels`, `classes`, `first` and a length.
"""
from __future__ import annotations

import logging
import os
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import numpy as np

from passl.errors import DataError
from passl.files import sha256

LOGGER = logging.getLogger("passl")
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
_SPLIT_NAMES = {"train", "val", "valid", "validation", "test"}


class ImageFiles:
    """Paths and labels of image files in a few NumPy arrays.

    A Python list of a million strings is copied page by page into every forked worker as reference counts change;
    arrays stay shared. `labels` is int64, -1 where a sample has none; `classes` are the names that labels index.
    """

    def __init__(self, paths: Sequence[str], labels: Optional[Union[Sequence[int], np.ndarray]] = None,
                 classes: Sequence[str] = ()):
        encoded = [os.fsencode(path) for path in paths]
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self.labels = np.full(len(encoded), -1, np.int64) if labels is None else np.asarray(labels, np.int64)
        self.classes = list(classes)

    def __len__(self) -> int:
        return len(self._ends)

    def path(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._bytes[start:self._ends[index]].tobytes())

    name = path

    def read(self, index: int) -> bytes:
        """The file as it is on disk; see `read_file`."""
        return read_file(self.path(index))

    def first(self, count: int) -> "ImageFiles":
        """The first `count` samples, with the classes unchanged."""
        count = min(count, len(self))
        return ImageFiles([self.path(index) for index in range(count)], self.labels[:count], self.classes)


def find_image_files(root: Union[str, Sequence[str]], labelled: bool) -> ImageFiles:
    """Collect images from `root`: a folder, a list file, or a list of these.

    In a folder whose images all lie in sub-folders the first level names the class; any other folder has no labels.
    A list file holds `path` or `path label` lines, relative to its own folder. Several roots are joined: class names
    are merged over them. Files are ordered by root, then by path, compared component by component, so that the order
    is the same on every file system.

    Raises DataError for a missing or empty root, and when `labelled` and some image has no class.
    """
    roots = [root] if isinstance(root, (str, os.PathLike)) else list(root)
    if not roots:
        raise DataError("dataset root is an empty list; give a folder, a list file, or several of them")
    found = [_list_file(os.fspath(r)) if os.path.isfile(r) else _folder(os.fspath(r)) for r in roots]
    has_classes = [classes is not None for _, classes in found]
    if labelled and not all(has_classes):
        bare = roots[has_classes.index(False)]
        raise DataError(f"{bare}: images without classes; a labelled dataset needs one sub-folder per class, or "
                        "'path label' lines in a list file")
    paths = [path for entry, _ in found for path in entry]
    if not any(has_classes):
        return ImageFiles(paths)
    names: List[Any] = [name for entry, classes in found for name in (classes or [None] * len(entry))]
    classes = sorted({name for name in names if name is not None}, key=_class_order)
    _refuse_split_folders(roots, classes)
    number = {name: position for position, name in enumerate(classes)}
    if all(isinstance(name, int) for name in classes):  # labels given as numbers are kept, gaps and all
        number, classes = {name: name for name in classes}, []
    return ImageFiles(paths, [number.get(name, -1) for name in names], [str(name) for name in classes])


def _class_order(name) -> Tuple[bool, int, str]:
    return (not isinstance(name, int), name if isinstance(name, int) else 0, str(name))


def _refuse_split_folders(roots: Sequence[str], classes: Sequence) -> None:
    if len(classes) > 1 and all(str(name).lower() in _SPLIT_NAMES for name in classes):
        names = " and ".join(str(name) for name in classes)
        inner = os.path.join(os.fspath(roots[0]), "train")
        raise DataError(f"{os.fspath(roots[0])}: its only classes are {names}, so the validation images would be "
                        f"trained on and the real classes lost; set root to {inner} (PASSL's SwAV files name the "
                        "parent folder and have this leak)")


def _folder(root: str) -> Tuple[List[str], Optional[List[str]]]:
    if not os.path.isdir(root):
        raise DataError(f"data root {root} does not exist (looked from {os.getcwd()}); set DataLoader.<Train|Eval>."
                        "dataset.root to a folder of images or a list file")
    relative = sorted(_image_files(root), key=lambda path: path.split("/"))
    if not relative:
        raise DataError(f"{root}: no images found; looked in all sub-folders for {' '.join(IMAGE_EXTENSIONS)}")
    paths = [os.path.join(root, path) for path in relative]
    if all("/" in path for path in relative):
        return paths, [path.split("/", 1)[0] for path in relative]
    return paths, None


def _image_files(root: str) -> Iterable[str]:
    """Image paths below `root`, relative, with '/'; symbolic links are followed, but never round in a circle."""
    pending: List[Tuple[str, Tuple[str, ...]]] = [("", (os.path.realpath(root),))]
    while pending:
        prefix, ancestors = pending.pop()
        with os.scandir(os.path.join(root, prefix)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    real = os.path.join(ancestors[-1], entry.name)
                    real = os.path.realpath(entry.path) if entry.is_symlink() else real
                    if real not in ancestors:
                        pending.append((prefix + entry.name + "/", ancestors + (real,)))
                elif entry.name.lower().endswith(IMAGE_EXTENSIONS):
                    yield prefix + entry.name


def read_file(path: str) -> bytes:
    """The bytes of a file; DataError that names it when it cannot be read or is empty."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if not data:
        raise DataError(f"{path}: the file is empty")
    return data


def read_lines(path: str) -> List[Tuple[int, str]]:
    """(line number, text) of the non-empty lines of a UTF-8 text file."""
    try:
        with open(path, encoding="utf-8-sig") as lines:  # editors on Windows begin a file with an invisible mark
            kept = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error.reason} at byte {error.start}); expected one image path "
                        "a line, or a folder of images") from None
    if not kept:
        raise DataError(f"{path}: the list is empty; expected 'path' or 'path label' lines")
    return kept


def _list_file(path: str) -> Tuple[List[str], Optional[List[int]]]:
    base = os.path.dirname(path)
    lines = read_lines(path)
    split = [line.rsplit(None, 1) for _, line in lines]
    is_labelled = [len(parts) == 2 and parts[1].isdigit() for parts in split]
    if any(is_labelled) and not all(is_labelled):
        number, line = lines[is_labelled.index(not is_labelled[0])]
        this, first = ("lacks a label", "has one") if is_labelled[0] else ("has a label", "has none")
        raise DataError(f"{path}:{number}: '{line}' {this} while line {lines[0][0]} {first}; write 'path' or "
                        "'path label' throughout")
    if all(is_labelled):
        return [os.path.join(base, name) for name, _ in split], [int(label) for _, label in split]
    return [os.path.join(base, line) for _, line in lines], None


def labelled_list(image_root: str, list_path: str) -> ImageFiles:
    """Samples of a PaddleClas-style list: `path label` lines, paths relative to `image_root`."""
    if not os.path.isfile(list_path):
        raise DataError(f"label list {list_path} does not exist; cls_label_path names a file of 'path label' lines")
    paths, labels = [], []
    for number, line in read_lines(list_path):
        parts = line.rsplit(None, 1)
        if len(parts) != 2 or not parts[1].isdigit():
            raise DataError(f"{list_path}:{number}: '{line}' is not 'path label' with a whole-number label")
        paths.append(os.path.join(image_root, parts[0]))
        labels.append(int(parts[1]))
    return ImageFiles(paths, labels)


_PUBLISHED_LISTS = {
    "1percent.txt": (12811, "71e82a48ba782526"),
    "10percent.txt": (128116, "6d09de11e7bdaf5b"),
}


def _tell_which_list(list_path: str) -> None:
    """Log the published list that a file is; a warning when it is none, because results then do not compare."""
    digest = sha256(list_path)
    for name, (_, start) in _PUBLISHED_LISTS.items():
        if digest.startswith(start):
            LOGGER.info(f"{list_path} is SimCLR's {name}, the list of the published results")
            return
    LOGGER.warning(f"{list_path} is not one of the published lists (sha256 {digest[:16]}...): results do not compare "
                   "with published ones")


def few_shot_list(root: str, list_path: str) -> ImageFiles:
    """Samples of a SimCLR-style list: one bare file name a line, `<class>_<rest>`, found at `<root>/<class>/<name>`.

    A line with a slash is a path below `root` whose first folder is the class, for data whose file names do not tell.

    Labels count the sub-folders of `root`, not the classes in the list, so that they agree with the validation tree.
    On a tree of 1000 classes the log tells whether the list is one of the published ones, by its checksum.
    """
    if not os.path.isdir(root):
        raise DataError(f"data root {root} does not exist (looked from {os.getcwd()}); FewShotDataset expects the "
                        "training tree with one sub-folder per class")
    if not os.path.isfile(list_path):
        published = "; ".join(f"{name}: {count} lines, sha256 {digest}..."
                              for name, (count, digest) in _PUBLISHED_LISTS.items())
        raise DataError(f"few-shot list {list_path} does not exist. The lists of the published results are in the "
                        "SimCLR repository (github.com/google-research/simclr, folder imagenet_subsets; "
                        f"{published}); nothing is downloaded here, put the file in place or set txt_file_name")
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) == 1000:
        _tell_which_list(list_path)
    number: Dict[str, int] = {name: position for position, name in enumerate(classes)}
    paths, labels = [], []
    for line_number, name in read_lines(list_path):
        class_name = name.split("/" if "/" in name else "_", 1)[0]
        if class_name not in number:
            raise DataError(f"{list_path}:{line_number}: '{name}' belongs to class '{class_name}', and {root} has no "
                            "such sub-folder; the list expects <root>/<class>/<class>_<number>.JPEG")
        paths.append(os.path.join(root, name) if "/" in name else os.path.join(root, class_name, name))
        labels.append(number[class_name])
    return ImageFiles(paths, labels, classes)
