"""Write balanced, nested few-label lists: `python tools/make_subset.py dataset/cifar10/train --percent 1 10`.

The 1 % list is part of the 10 % list of the same seed. The lists of the published ImageNet results are not made by
this: they are SimCLR's (docs/evaluation.md).
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from passl.data.subsets import subset_list  # noqa: E402
from passl.errors import DataError  # noqa: E402


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
