"""`python -m passl.config [Section]`: every key of the schema with its type, default and what experience says."""
from __future__ import annotations

import sys
from typing import Iterator

from .fields import Component, ComponentList, GroupList, Key, Section
from .schema import SCHEMA
from .typecheck import describe


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


if __name__ == "__main__":
    print("\n".join(line for line in lines(SCHEMA) if not sys.argv[1:] or line.startswith(sys.argv[1])))
