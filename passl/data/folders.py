"""Which files of a folder are images, and what is left out."""
from __future__ import annotations

import contextlib
import importlib
import os
import re
import stat
from collections import Counter
from functools import lru_cache
from typing import Iterator, List, NamedTuple, Tuple

from PIL import Image

from passl.errors import DataError

_ALWAYS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff",
           ".webp")
_WHERE_READABLE = ("AVIF", "HEIF", "JPEG2000")  # Pillow's names of formats that not every installation reads
# What lies beside images without being one; files of any other suffix may be images that somebody misses.
_NO_IMAGES = {"", ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".log", ".ini",
              ".db", ".py", ".sh", ".mat", ".url", ".lst"}
_STARTS = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|BM.{4}\0{4}|II\*\0|MM\0\*|RIFF.{4}WEBP|"
                     rb".{4}ftyp(avi[fs]|hei[cfsx]|hev[cx]|mif1|msf1)|\0\0\0\x0cjP|P[4-6]\s+[#\d]", re.DOTALL)


@lru_cache(maxsize=None)
def image_suffixes() -> Tuple[str, ...]:
    """Suffixes of the files that are read from folders: the usual ones, and AVIF, HEIC, JPEG 2000 where Pillow can."""
    with contextlib.suppress(ImportError):  # a plugin that is there is meant to be used
        importlib.import_module("pillow_heif").register_heif_opener()
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_avif")
    known = Image.registered_extensions()
    return (*_ALWAYS, *sorted(suffix for suffix, kind in known.items()
                              if kind in _WHERE_READABLE and kind in Image.OPEN and suffix not in _ALWAYS))


def open_regular(path: str):
    """A regular file, open for reading; DataError for anything else. A FIFO would wait for a writer for ever."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise DataError(f"{path}: not a file but a pipe or device")


def is_image(path: str) -> bool:
    """Whether a file is an image by its suffix, or begins like one whatever it is called."""
    return path.lower().endswith(image_suffixes()) and not os.path.isdir(path) or _begins_like_image(path)


def _begins_like_image(path: str) -> bool:
    try:
        with open_regular(path) as file:
            return _STARTS.match(file.read(32)) is not None
    except (OSError, DataError):
        return False


class Folder(NamedTuple):
    """images: paths relative to the folder, with '/', in order. left_out: suffix -> number of files that are none.
    empty: first-level sub-folders without an image."""

    images: List[str]
    left_out: Counter
    empty: List[str]

    def told(self) -> str:
        """What is not among the images, for a log line; empty when there is nothing to tell."""
        texts = []
        if self.left_out:
            most = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))[:8]
            counts = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in most)
            hint = " ('pip install pillow-heif' reads HEIC)" if {".heic", ".heif"} & set(self.left_out) else ""
            texts.append(f"left out by suffix: {counts}{', ...' if len(self.left_out) > 8 else ''}{hint}")
        if self.empty:
            texts.append(f"sub-folders without an image: {', '.join(self.empty[:8])}"
                         f"{f' and {len(self.empty) - 8} more' if len(self.empty) > 8 else ''}")
        return "; ".join(texts)

    @property
    def may_be_missed(self) -> bool:
        """Whether something was left out that somebody may have meant as images."""
        return bool(self.empty or set(self.left_out) - _NO_IMAGES)


def scan(root: str) -> Folder:
    """All files below `root` but hidden ones; the order compares paths component by component."""
    images: List[str] = []
    left_out: Counter = Counter()
    for relative, wanted in _files(root):
        if wanted:
            images.append(relative)
        else:
            left_out[os.path.splitext(relative)[1].lower()] += 1
    images.sort(key=lambda path: path.split("/"))
    filled = {path.split("/", 1)[0] for path in images if "/" in path}
    return Folder(images, left_out, sorted(set(folders_in(root)) - filled))


def folders_in(root: str) -> List[str]:
    """Names of the sub-folders of `root` but hidden ones, sorted."""
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _files(root: str) -> Iterator[Tuple[str, bool]]:
    """(path relative to `root`, is an image); symbolic links are followed, but never round in a circle."""
    suffixes = image_suffixes()
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
                else:
                    name = entry.name.lower()
                    yield prefix + entry.name, name.endswith(suffixes) or (
                        "." not in name and _begins_like_image(entry.path))
