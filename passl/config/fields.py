"""The vocabulary the schema tables are written in: keys, sections, and sections that a registered component owns."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional

REQUIRED = type("Required", (), {"__repr__": lambda self: "required"})()
ABSENT = type("Absent", (), {"__repr__": lambda self: "not set"})()


@dataclass(eq=False)
class Key:
    """One configuration key.

    type: a typing annotation, or a Section, Component or ComponentList for what is nested.
    default: REQUIRED, ABSENT (stays away when it is not given), or the value to fill in; `{}` fills a nested section.
    minimum: smallest number. convert: turns the value into its final form or raises UserError with what is wrong.
    of_constructor: in a Component, only says more of a parameter that some of its constructors have; where the
    constructor has none of this name the key is unknown.
    """

    name: str
    type: Any
    default: Any
    help: str
    minimum: Optional[float] = None
    convert: Optional[Callable[[Any], Any]] = None
    of_constructor: bool = False


class Legacy(NamedTuple):
    """A key of older PASSL files that is accepted with a warning and dropped; the reason says what holds instead."""

    name: str
    reason: str


class Section:
    """A mapping with a fixed set of keys. aliases: other spellings -> the name kept in the checked configuration."""

    def __init__(self, *entries, aliases: Optional[Mapping[str, str]] = None):
        self.keys: Dict[str, Key] = {entry.name: entry for entry in entries if isinstance(entry, Key)}
        self.legacy: Dict[str, str] = {entry.name: entry.reason for entry in entries if isinstance(entry, Legacy)}
        self.aliases = dict(aliases or {})


class Component(Section):
    """A mapping whose key `selector` names a component; the component's constructor parameters are further keys.

    registry: name of the registry in passl.registry. The entries of the table come on top: keys that the code which
    builds the component reads itself. A table key that a constructor also has keeps the table's type.
    """

    def __init__(self, registry: str, *entries, selector: str = "name", default: Optional[str] = None,
                 aliases: Optional[Mapping[str, str]] = None):
        super().__init__(*entries, aliases=aliases)
        self.registry, self.selector, self.default = registry, selector, default


class ComponentList(Component):
    """A list of `Name: {arguments}`, as PASSL writes transforms, losses and metrics; a bare `Name` is allowed.

    inner: the parameter by which a component takes such a list itself (`transforms` of Compose).
    """

    def __init__(self, registry: str, *entries, inner: Optional[str] = None):
        super().__init__(registry, *entries)
        self.inner = inner


class GroupList(Section):
    """A list of mappings, each of which may set again any key of the component that holds the list."""


def is_nested(type: Any) -> bool:
    """Whether a key's type is a table of its own rather than a typing annotation."""
    return isinstance(type, Section)
