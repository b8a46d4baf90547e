"""`python -m passl.config [Section]`: the keys of the sections with type, default and what experience says.

The keys of components (methods, datasets, ...) are their constructors' parameters: docs/configuration.md lists them.
"""
from __future__ import annotations

import os
import sys
from typing import Iterator, Sequence

from passl.config.schema import SCHEMA
from passl.config.table import rows
from passl.registry import nearest


def lines() -> Iterator[str]:
    """One line per key, nested tables in place."""
    for name, kind, default, help in rows(SCHEMA):
        yield f"{name}: {kind} = {default}  # {help}" if kind else f"{name}: accepted, no effect  # {help}"


def main(arguments: Sequence[str]) -> int:
    """Print the keys whose path starts with the first argument; status 2 when there are none."""
    wanted = arguments[0] if arguments else ""
    found = [line for line in lines() if line.startswith(wanted)]
    if not found:
        print(f"no key starts with {wanted}{nearest(wanted, SCHEMA.keys)}; sections: {', '.join(SCHEMA.keys)}",
              file=sys.stderr)
        return 2
    try:
        print("\n".join(found))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
