"""Where a dataset's images are: class trees, flat or nested folders, list files, and several of them together.

A source is anything with `read(index)`, the bytes of an encoded image, `name(index)`, what errors and lists call it,
`labels`, `classes`, `first` and a length.
"""
from __future__ import annotations

import logging
import os
import re
from typing import Dict, Iterable, List, Optional, Sequence, Tuple, Union

import numpy as np

from passl.data.folders import folders_in, image_suffixes, is_image, open_regular, scan
from passl.data.list_files import read_lines, read_list, require_files
from passl.errors import DataError
from passl.files import sha256

LOGGER = logging.getLogger("passl")
_SPLIT_WORDS = {"train", "training", "trainval", "val", "valid", "validation", "test", "testing", "eval", "dev", "pred",
                "unlabeled", "unlabelled"}
_BESIDE_SPLITS = {"seg", "set", "data", "dataset", "image", "images", "img", "imgs", "split", "full", "labeled",
                  "labelled", "extra"}


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


def find_image_files(root: Union[str, Sequence[str]], labelled: bool, strict: bool = True) -> ImageFiles:
    """Collect images from `root`: a folder, a list file, or a list of these.

    In a folder whose images all lie in sub-folders the first level names the class; any other folder has no labels.
    A list file holds `path` or `path label` lines, relative to its own folder. Several roots are joined: class names
    are merged over them. Files are ordered by root, then by path, compared component by component, so that the order
    is the same on every file system. What was found and what was left out is logged in one line for each root.

    strict: for training. False takes image files as roots as well, and warns where training is refused: at classes
    that look like splits, at roots that overlap, and at class folders beside numbers (then there are no classes).

    Raises DataError for a missing or empty root, and when `labelled` and some image has no class.
    """
    roots = [os.path.expanduser(place) for place in ([root] if isinstance(root, (str, os.PathLike)) else root)]
    if not roots:
        raise DataError("dataset root is an empty list; give a folder, a list file, or several of them")
    found = [_entries(place, labelled, strict) for place in roots]
    if len(roots) > 1:
        _tell_overlap(roots, [paths for paths, _ in found], strict)
    paths = [path for entry, _ in found for path in entry]
    names = _merged_names(roots, found, strict)
    classes = sorted({name for name in names if isinstance(name, str)})
    if not classes:  # labels given as numbers are kept, gaps and all
        return ImageFiles(paths, [int(name) for name in names])
    _tell_splits(roots, classes, strict)
    number = {name: position for position, name in enumerate(classes)}
    return ImageFiles(paths, [number[name] if isinstance(name, str) else name for name in names], classes)


Class = Union[str, int]  # the name of a folder, or the number in a list; -1 for none
Entries = Tuple[List[str], Sequence[Class]]  # paths, and the class of each


def _entries(root: str, labelled: bool, strict: bool) -> Entries:
    """The images of one root."""
    if not strict and is_image(root):
        return [root], [-1]
    if not os.path.isfile(root):
        return _folder(root, labelled)
    paths, labels = read_list(root)
    if labelled and labels is None:
        raise DataError(f"{root}: images without classes; a labelled dataset needs 'path label' lines in a list file, "
                        "or one sub-folder per class")
    LOGGER.info(f"{root}: {_count(paths, labels)}")
    return paths, [-1] * len(paths) if labels is None else labels


def _count(paths: Sequence[str], classes: Optional[Sequence]) -> str:
    distinct = len(set(classes or ()))
    return (f"{len(paths)} image{'s' * (len(paths) > 1)} "
            + (f"in {distinct} class{'es' * (distinct > 1)}" if distinct else "without classes"))


def _folder(root: str, labelled: bool) -> Entries:
    if not os.path.isdir(root):
        if os.path.exists(root):
            raise DataError(f"{root}: neither a file nor a folder; give a folder of images or a list file")
        raise DataError(f"data root {root} does not exist (looked from {os.getcwd()}); set DataLoader.<Train|Eval>."
                        "dataset.root to a folder of images or a list file")
    folder = scan(root)
    if not folder.images:
        raise DataError(f"{root}: no images found; looked in all sub-folders for {' '.join(image_suffixes())}"
                        + (f" ({folder.told()})" if folder.left_out else ""))
    paths = [os.path.join(root, path) for path in folder.images]
    stray = [path for path in folder.images if "/" not in path]
    beside = f"{stray[0]}{f' and {len(stray) - 1} more' if len(stray) > 1 else ''} beside the class folders" if (
        0 < len(stray) < len(paths) - len(stray)) else ""
    if labelled and stray:
        raise DataError(f"{root}: images without classes", f"{beside} must be removed, or put into one" if beside else
                        "a labelled dataset needs one sub-folder per class, or 'path label' lines in a list file")
    if stray:
        folder = folder._replace(empty=[])  # without classes no sub-folder is one
    classes = [path.split("/", 1)[0] for path in folder.images] if not stray else None
    told = [_count(paths, classes), f"because of {beside}" if beside else "", folder.told()]
    LOGGER.log(logging.WARNING if beside or folder.may_be_missed else logging.INFO,
               f"{root}: {'; '.join(filter(None, told))}")
    if classes is None:
        return paths, [-1] * len(paths)
    broken = next((name for name in sorted(set(classes)) if "\n" in name or "\r" in name), None)
    if broken is not None:
        raise DataError(f"{root}: the folder name {broken!r} holds a line break, and classes are written one a line; "
                        "rename it")
    return paths, classes


def values_of(names: Iterable[str]) -> Optional[Dict[int, str]]:
    """Value -> name, when all names are whole numbers of different values; else None."""
    names = list(names)
    values = {int(name): name for name in names if name.isdecimal()}
    return values if len(values) == len(names) else None


def _merged_names(roots: Sequence[str], found: Sequence[Entries], strict: bool) -> List[Class]:
    """The class of every image over all roots: names where a root has class folders, else numbers, -1 for none.

    Folders called by numbers and the numbers of lists are the same classes by value. When numbers stand beside other
    names no image has a class; DataError then when `strict`.
    """
    merged = [name for _, classes in found for name in classes]
    names = {name for name in merged if isinstance(name, str)}
    if not names or all(isinstance(name, str) or name < 0 for name in merged):
        return merged
    folder = values_of(names)
    if folder is not None:
        return [folder.get(name, str(name)) if isinstance(name, int) and name >= 0 else name for name in merged]
    tree = next(root for root, (_, classes) in zip(roots, found) if isinstance(classes[0], str))
    listed = next(root for root, (_, classes) in zip(roots, found) if isinstance(classes[0], int) and classes[0] >= 0)
    problem = f"{tree} has class folders and {listed} has numbers, and nothing tells which number is which folder"
    if strict:
        raise DataError(problem, f"sort the files of {listed} into class folders, or list those of {tree} with numbers")
    LOGGER.warning(f"{problem}: the images count as unlabelled")
    return [-1] * len(merged)


def _tell_splits(roots: Sequence[str], classes: Sequence[str], strict: bool) -> None:
    """Refuse classes that are all called like splits, warn of some: the root is probably one level too high."""
    splits = [name for name in classes if _is_split(name)]
    if not splits:
        return
    names = f"{', '.join(splits[:-1])} and {splits[-1]}" if len(splits) > 1 else splits[0]
    place = next(root for root in roots if os.path.isdir(os.path.join(root, splits[0])))
    inner = _below_splits(place, next((name for name in splits if "train" in name.lower()), splits[0]))
    if strict and len(splits) == len(classes) > 1:
        raise DataError(f"{place}: its only classes are {names}, so the validation images would be trained on and the "
                        f"real classes lost; set root to {inner} (PASSL's SwAV files name the parent folder and have "
                        "this leak)")
    LOGGER.warning(f"{place}: {names} of {len(classes)} classes look{'s' * (len(splits) == 1)} like a split and not "
                   f"like a class; the root may be one level too high ({inner}?)")


def _is_split(name: str) -> bool:
    words = set(re.findall("[a-z]+", name.lower()))
    return bool(words & _SPLIT_WORDS) and words <= _SPLIT_WORDS | _BESIDE_SPLITS


def _below_splits(root: str, name: str) -> str:
    """The folder below `root` where classes may be: `name`, and further down while there is one folder and a split."""
    place = os.path.join(root, name)
    inner = folders_in(place)
    return _below_splits(place, inner[0]) if len(inner) == 1 and _is_split(inner[0]) else place


def _tell_overlap(roots: Sequence[str], paths: Sequence[Sequence[str]], strict: bool) -> None:
    """Refuse roots that lie in one another, warn of images that several roots have: they would count twice."""
    folders = [os.path.join(os.path.realpath(root), "") if os.path.isdir(root) else "" for root in roots]
    real: Dict[str, str] = {}
    owner: Dict[str, int] = {}
    twice: Dict[Tuple[int, int], int] = {}
    for place, entries in enumerate(paths):
        for path in entries:
            head, tail = os.path.split(path)
            if head not in real:
                real[head] = os.path.realpath(head)
            first = owner.setdefault(os.path.join(real[head], tail), place)
            if first != place:
                twice[first, place] = twice.get((first, place), 0) + 1
    for (first, second), count in twice.items():
        one, other = folders[first], folders[second]
        text = f"{roots[first]} and {roots[second]} share {count} images, which count twice"
        if strict and one and other and one != other and (one.startswith(other) or other.startswith(one)):
            raise DataError(f"{text}: one root lies in the other; name one of them")
        LOGGER.warning(text)


def read_file(path: str) -> bytes:
    """The bytes of a file; DataError that names it when it cannot be read or is empty."""
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if not data:
        raise DataError(f"{path}: the file is empty")
    return data


def labelled_list(image_root: str, list_path: str) -> ImageFiles:
    """Samples of a PaddleClas-style list: `path label` lines, paths relative to `image_root`."""
    image_root, list_path = os.path.expanduser(image_root), os.path.expanduser(list_path)
    if not os.path.isfile(list_path):
        raise DataError(f"label list {list_path} does not exist; cls_label_path names a file of 'path label' lines")
    paths, labels = read_list(list_path, image_root)
    if labels is None:
        number, line = read_lines(list_path)[0]
        raise DataError(f"{list_path}:{number}: '{line}' is not 'path label' with a whole-number label")
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
    root, list_path = os.path.expanduser(root), os.path.expanduser(list_path)
    if not os.path.isdir(root):
        raise DataError(f"data root {root} does not exist (looked from {os.getcwd()}); FewShotDataset expects the "
                        "training tree with one sub-folder per class")
    if not os.path.isfile(list_path):
        published = "; ".join(f"{name}: {count} lines, sha256 {digest}..."
                              for name, (count, digest) in _PUBLISHED_LISTS.items())
        raise DataError(f"few-shot list {list_path} does not exist. The lists of the published results are in the "
                        "SimCLR repository (github.com/google-research/simclr, folder imagenet_subsets; "
                        f"{published}); nothing is downloaded here, put the file in place or set txt_file_name")
    classes = folders_in(root)
    if len(classes) == 1000:
        _tell_which_list(list_path)
    number: Dict[str, int] = {name: position for position, name in enumerate(classes)}
    paths, labels = [], []
    lines = read_lines(list_path)
    for line_number, name in lines:
        class_name = name.split("/" if "/" in name else "_", 1)[0]
        if class_name not in number:
            raise DataError(f"{list_path}:{line_number}: '{name}' belongs to class '{class_name}', and {root} has no "
                            "such sub-folder; the list expects <root>/<class>/<class>_<number>.JPEG")
        paths.append(os.path.join(root, name) if "/" in name else os.path.join(root, class_name, name))
        labels.append(number[class_name])
    require_files(list_path, lines, paths, root)
    return ImageFiles(paths, labels, classes)
