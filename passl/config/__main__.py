"""`python -m passl.config [Section]`: the keys of the sections with type, default and what experience says.

The keys of components (methods, datasets, ...) are their constructors' parameters: docs/configuration.md lists them.
"""
from __future__ import annotations

import os
import sys
from typing import Iterator, Sequence

from passl.config.fields import Component, ComponentList, GroupList, Key, Section
from passl.config.schema import SCHEMA
from passl.config.typecheck import describe
from passl.registry import nearest


def lines(section: Section, path: str = "") -> Iterator[str]:
    """One line per key, nested tables in place."""
    for key in section.keys.values():
        name = f"{path}.{key.name}" if path else key.name
        yield f"{name}: {_kind(key)} = {key.default}  # {key.help}"
        if isinstance(key.type, Section):
            yield from lines(key.type, name + ".*" if isinstance(key.type, (ComponentList, GroupList)) else name)
    for name, reason in section.legacy.items():
        yield f"{path}.{name}: accepted, no effect  # {reason}"


def _kind(key: Key) -> str:
    if isinstance(key.type, Component):
        return f"{'list of ' if isinstance(key.type, ComponentList) else ''}{key.type.registry}"
    if isinstance(key.type, Section):
        return "list of sections" if isinstance(key.type, GroupList) else "section"
    if key.choices:
        return " | ".join(str(choice) for choice in key.choices)
    return describe(key.type)


def main(arguments: Sequence[str]) -> int:
    """Print the keys whose path starts with the first argument; status 2 when there are none."""
    wanted = arguments[0] if arguments else ""
    found = [line for line in lines(SCHEMA) if line.startswith(wanted)]
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
