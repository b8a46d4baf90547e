"""Text files that name images, one a line, and what is wrong with those that do not."""
from __future__ import annotations

import os
import re
from typing import List, Optional, Sequence, Tuple

from passl.data.folders import image_suffixes, is_image, open_regular
from passl.errors import DataError

LARGEST_SPARSE_LABEL = 100_000  # a classifier has as many outputs as the largest label says
_CHECKED = 20


def read_lines(path: str) -> List[Tuple[int, str]]:
    """(line number, text) of the non-empty lines of a text file; bytes that are not UTF-8 stay as they are in names."""
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) and not is_image(path):
        raise DataError(f"{path}: UTF-16 text; save it as UTF-8")
    if b"\0" in data[:4096] or is_image(path):
        raise DataError(f"{path}: not a text file; expected one image path a line, or a folder of images")
    # editors on Windows begin a file with an invisible mark; names may hold any byte
    text = data.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
    kept = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not kept:
        raise DataError(f"{path}: the list is empty; expected 'path' or 'path label' lines")
    return kept


def read_list(path: str, base: Optional[str] = None) -> Tuple[List[str], Optional[List[int]]]:
    """Paths and labels (None when it has none) of a list file of `path` or `path label` lines.

    base: what paths are relative to; by default the folder of the list.
    """
    base = os.path.dirname(path) if base is None else base
    lines = read_lines(path)
    split = [line.rsplit(None, 1) for _, line in lines]
    is_labelled = [len(parts) == 2 and parts[1].isdecimal() for parts in split]
    if any(is_labelled) and not all(is_labelled):
        if not is_labelled[0] and all(is_labelled[1:]) and not _has_image_suffix(lines[0][1]):
            raise DataError(f"{path}:{lines[0][0]}: '{lines[0][1]}' looks like a header; remove the line")
        number, line = lines[is_labelled.index(not is_labelled[0])]
        this, first = ("lacks a label", "has one") if is_labelled[0] else ("has a label", "has none")
        raise DataError(f"{path}:{number}: '{line}' {this} while line {lines[0][0]} {first}; write 'path' or "
                        "'path label' throughout, with whole numbers from 0 as labels")
    if all(is_labelled):
        paths = [below(base, name) for name, _ in split]
        require_files(path, lines, paths, base)
        return paths, whole_labels(path, [label for _, label in split])
    paths = [below(base, line) for _, line in lines]
    require_files(path, lines, paths, base)
    return paths, None


def below(base: str, name: str) -> str:
    """A path of a list: relative to `base`, or absolute, or below ~/ (a name like ~backup.jpg is no user)."""
    return os.path.expanduser(name) if name.startswith("~/") else os.path.join(base, name)


def whole_labels(path: str, texts: Sequence[str]) -> List[int]:
    """Labels of a list; DataError for identifiers, which would make a classifier of as many outputs."""
    labels = [int(text) for text in texts]
    highest, distinct = max(labels), len(set(labels))
    if highest >= LARGEST_SPARSE_LABEL and highest > 10 * distinct:
        raise DataError(f"{path}: labels up to {highest} for {distinct} distinct ones; number the classes from 0 to "
                        f"{distinct - 1}")
    return labels


def require_files(path: str, lines: Sequence[Tuple[int, str]], paths: Sequence[str], base: str) -> None:
    """DataError that names a line and what is probably wrong with it when none of the files looked for is there.

    A file or two that are missing are left to whoever reads them, because they may be skipped.
    """
    chosen = sorted({round(step * (len(paths) - 1) / _CHECKED) for step in range(_CHECKED + 1)})
    missing = [place for place in chosen if not os.path.lexists(paths[place])]
    if missing and missing[0] == 0 and len(missing) < len(chosen) and not _has_image_suffix(lines[0][1]):
        raise DataError(f"{path}:{lines[0][0]}: '{lines[0][1]}' looks like a header; remove the line")
    if len(missing) == len(chosen):
        place = next((place for place in chosen if _has_image_suffix(lines[place][1])), 0)
        number, line = lines[place]
        raise DataError(f"{path}:{number}: '{line}' names no file, nor do the other lines looked at "
                        f"({paths[place]} does not exist)", _cause(line, base))


def _has_image_suffix(line: str) -> bool:
    return re.search("(" + "|".join(map(re.escape, image_suffixes())) + r")\b", line.lower()) is not None


def _cause(line: str, base: str) -> str:
    if line[0] in "\"'":
        return "write paths without quotes"
    if re.search(r",\s*[^,/]*$", line):
        return "a comma stands between the columns: write 'path label' with a space"
    if "\\" in line and "/" not in line:
        return "write paths with / instead of \\"
    name = line.rpartition(" ")[0] if " " in line else line.rpartition("\t")[0]
    word = line[len(name):].strip()
    if name and name.strip().lower().endswith(image_suffixes()) and not word.isdecimal():
        return (f"'{word}' after the path is no label: write a whole number from 0 for each class, or sort the files "
                "into class folders")
    if any("\udc80" <= letter <= "\udcff" for letter in line):
        return "the list is not UTF-8: save it as UTF-8, unless the names of the files have the same bytes"
    return f"paths are relative to {base or os.getcwd()}: write them so, or absolute"
