"""Write balanced, nested few-label lists: `python tools/make_subset.py dataset/cifar10/train --percent 1 10`.

The 1 % list is part of the 10 % list of the same seed. The lists of the published ImageNet results are not made by
this: they are SimCLR's (docs/evaluation.md).
"""
import argparse
import os
import sys
from pathlib import Path
from typing import List

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from passl.data.sources import find_image_files  # noqa: E402
from passl.errors import DataError  # noqa: E402


def deal(labels: np.ndarray, seed: int) -> np.ndarray:
    """An order of all samples, int64 [N], whose every beginning is balanced over classes.

    Each class is shuffled; then the classes, in an order that is drawn once, give one sample in turn until they have
    none left. The first n and the first m > n of the order are therefore nested subsets, and as long as no class is
    exhausted the classes' shares differ by at most one.
    """
    generator = np.random.RandomState(seed)  # its streams are the same in every NumPy version
    classes = generator.permutation(np.unique(labels))
    turn, place = np.empty(len(labels), np.int64), np.empty(len(labels), np.int64)
    for position, label in enumerate(classes):
        own = generator.permutation(np.flatnonzero(labels == label))
        turn[own], place[own] = np.arange(len(own)), position
    return np.lexsort((place, turn))


def subset_list(root: str, percent: float, seed: int = 0) -> List[str]:
    """Lines of a FewShotDataset list with `percent` of the images of the class tree `root`.

    Bare names where every file is called `<class>_<rest>`, as in ImageNet and SimCLR's lists; else `<class>/<name>`.
    At least one image of each class. DataError for a tree without classes or a percentage outside (0, 100].
    """
    if not 0 < percent <= 100:
        raise DataError(f"percent is {percent}; it must lie above 0 and not above 100")
    samples = find_image_files(root, labelled=True)
    count = max(len(samples.classes), round(len(samples) * percent / 100))
    relative = [os.path.relpath(samples.path(index), root).replace(os.sep, "/")
                for index in deal(samples.labels, seed)[:count]]
    parts = [path.split("/") for path in relative]
    if all(len(part) == 2 and part[1].startswith(part[0] + "_") and "_" not in part[0] for part in parts):
        return [name for _, name in parts]
    return relative


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="training images, one folder per class")
    parser.add_argument("--percent", type=float, nargs="+", default=[1.0, 10.0], help="share of the images")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other images")
    parser.add_argument("--output", default=None, metavar="FOLDER",
                        help="where <percent>percent.txt goes; default: beside root")
    parser.add_argument("--force", action="store_true", help="replace lists that are there; those of the published "
                        "results have the same names")
    options = parser.parse_args(arguments)
    folder = Path(options.output) if options.output else Path(options.root).resolve().parent
    try:
        there = [str(path) for path in (folder / f"{percent:g}percent.txt" for percent in options.percent)
                 if path.exists()]
        if there and not options.force:
            raise FileExistsError(f"{' and '.join(there)} would be replaced, perhaps the lists of the published "
                                  "results: give --output FOLDER, or --force")
        for percent in options.percent:
            lines = subset_list(options.root, percent, options.seed)
            path = folder / f"{percent:g}percent.txt"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            print(f"{path}: {len(lines)} images")
    except (DataError, OSError) as error:
        print(f"make_subset: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
