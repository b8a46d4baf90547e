"""Classes of two sets of images: the same number for the same class, and files that are in both."""
from __future__ import annotations

import logging
import os
from functools import lru_cache
from typing import Callable, Dict, Hashable, List, NamedTuple, Sequence

import numpy as np

from passl.data.sources import ImageFiles, values_of
from passl.errors import DataError
from passl.registry import nearest

LOGGER = logging.getLogger("passl")
MOST_FILES_ASKED = 100_000  # a network file system answers for a million in minutes


class KnownClasses(NamedTuple):
    """What labels are compared with.

    names: of classes in the order of their numbers, empty when only numbers are known. size: how many numbers there
    are, from 0. owner: what messages call whose classes these are.
    """

    names: Sequence[str]
    size: int
    owner: str


def known_classes(samples: ImageFiles, owner: str) -> KnownClasses:
    """The classes of a data set; none (size 0) when it has no labels."""
    return KnownClasses(list(samples.classes), len(samples.classes) or int(samples.labels.max(initial=-1)) + 1, owner)


def number_alike(samples: ImageFiles, known: KnownClasses, place: str) -> None:
    """Give the labels of `samples`, in place, the numbers of `known`: class names by name, whatever else a tree lacks.

    Numbers of a list are folders called by them, by value. Against other folder names, or names against numbers alone,
    the order of the names decides, with a warning, where the numbers fit. DataError for a class that is not known, for
    a label outside the classes, and when nothing tells which number is which name. place: what messages call the data.
    """
    labels = samples.labels
    used = [int(label) for label in np.unique(labels[labels >= 0])]
    if not used or not known.size:
        return
    number: Dict[int, int] = {label: label for label in used}
    if samples.classes and known.names:
        _require_known([samples.classes[label] for label in used], known, place)
        position = {name: index for index, name in enumerate(known.names)}
        number = {label: position[samples.classes[label]] for label in used}
    elif samples.classes:
        number = _values_or_order(samples.classes, used, known, place)
    elif known.names:
        folders = values_of(known.names)
        if folders is not None:
            position = {name: index for index, name in enumerate(known.names)}
            _refuse_outside([label for label in used if label not in folders], known, place)
            number = {label: position[folders[label]] for label in used}
        else:
            _refuse_outside([label for label in used if label >= len(known.names)], known, place)
            _warn_of_order(place, known.owner, known.names)
    else:
        _refuse_outside([label for label in used if label >= known.size], known, place)
    labels[labels >= 0] = [number[label] for label in labels[labels >= 0].tolist()]
    if known.names:
        samples.classes = list(known.names)
    elif any(label != own for label, own in number.items()):
        samples.classes = []


def _require_known(names: Sequence[str], known: KnownClasses, place: str) -> None:
    unknown = [name for name in names if name not in set(known.names)]
    if unknown:
        raise DataError(f"{place} has the class '{unknown[0]}'{nearest(unknown[0], known.names)}, which {known.owner} "
                        f"does not know ({len(unknown)} of {len(names)} classes are unknown; it knows "
                        f"{', '.join(known.names[:5])}{', ...' if len(known.names) > 5 else ''}): give the class "
                        "folders the same names")


def _values_or_order(names: List[str], used: Sequence[int], known: KnownClasses, place: str) -> Dict[int, int]:
    """Numbers for named classes where only numbers are known."""
    folders = values_of(names)
    if folders is not None:
        values = {label: int(names[label]) for label in used}
        _refuse_outside([value for value in values.values() if value >= known.size], known, place)
        return values
    if len(names) != known.size:
        raise DataError(f"{place} has {len(names)} class folders, and {known.owner} has numbers for {known.size} "
                        "classes, and nothing tells which number is which folder: use class folders or lists with "
                        "numbers for both; for trained weights a classes.txt beside them, one name a line, tells it")
    _warn_of_order(known.owner, place, names)
    return {label: label for label in used}


def _refuse_outside(labels: Sequence[int], known: KnownClasses, place: str) -> None:
    if labels:
        classes = (f"the classes {', '.join(known.names[:5])}{', ...' if len(known.names) > 5 else ''}" if known.names
                   else f"{known.size} classes, 0 to {known.size - 1}")
        raise DataError(f"{place} has the label {max(labels)}, and {known.owner} has {classes}: number both alike, "
                        "from 0")


def _warn_of_order(numbered: str, named: str, names: Sequence[str]) -> None:
    LOGGER.warning(f"the numbers of {numbered} are taken for the sorted class names of {named}: 0 is {names[0]}, "
                   f"{len(names) - 1} is {names[-1]}")


def tell_shared_files(train: ImageFiles, test: ImageFiles, train_place: str, test_place: str) -> int:
    """Warn of test images that are training images as well, whatever they are called; returns how many there are.

    Files are compared, and of more than 100,000 only their folders and names: links to single files are then not found.
    """
    identity = _file if len(train) + len(test) <= MOST_FILES_ASKED else _folder_and_name()
    shared = len({identity(test.path(index)) for index in range(len(test))}.intersection(
        identity(train.path(index)) for index in range(len(train))))
    if shared:
        LOGGER.warning(f"{shared} of the {len(test)} images of {test_place} are images of {train_place} as well, so "
                       "the accuracy says little: test on others")
    return shared


def _file(path: str) -> Hashable:
    try:
        state = os.stat(path)
    except OSError:
        return path  # whoever reads the file reports it
    return state.st_dev, state.st_ino


def _folder_and_name() -> Callable[[str], Hashable]:
    real = lru_cache(maxsize=None)(os.path.realpath)

    def identity(path: str) -> Hashable:
        folder, name = os.path.split(path)
        return real(folder), name

    return identity
