"""`passl list-models [PATTERN]`: the released models, their scores and files."""
from __future__ import annotations

import argparse
import os
import sys
from typing import Optional, Sequence


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Print the table, or the whole entry of each model that matches PATTERN. Exit status 1 when none does."""
    parser = argparse.ArgumentParser(prog="passl list-models", description="Released models that passl loads.")
    parser.add_argument("pattern", nargs="?", help="a name or shell pattern such as 'swav_*': prints whole entries")
    options = parser.parse_args(argv)
    from passl.models.zoo import list_models, release, table, weights_folder

    if options.pattern is None:
        print(table())
        print(f"\ntop-1: ImageNet, linear probe, as published. Files are looked for in {weights_folder()}.")
        return 0
    names = list_models(options.pattern)
    if not names:
        print(f"no released model matches '{options.pattern}'", file=sys.stderr)
        return 1
    for entry in map(release, names):
        path = os.path.join(weights_folder(), entry.file)
        print(f"{entry.name}\n  method      {entry.method}, {entry.architecture or 'linear head'}"
              f"{f', prototypes {entry.prototypes}' if entry.prototypes else ''}\n  licence     {entry.licence}\n"
              f"  source      {entry.url or entry.page}\n  file        {path}"
              f"{'' if os.path.exists(path) else ' (not there yet)'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
