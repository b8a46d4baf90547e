"""What may stand in a section: one pure function for the checker, the terminal and the documentation."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, Iterator, Optional, Tuple

from passl.config.fields import ABSENT, REQUIRED, Component, ComponentList, GroupList, Key, Section, is_nested
from passl.config.typecheck import describe
from passl.registry import Registry


@dataclass(frozen=True)
class Table:
    """keys: in the order of a checked configuration. legacy: key -> why it has no effect. aliases: spelling -> key.

    open_ended: further keys are kept unjudged, because nothing is known of the component.
    """

    keys: Dict[str, Key]
    legacy: Dict[str, str]
    aliases: Dict[str, str]
    open_ended: bool = False


def table(kind: Section, registry: Optional[Registry] = None, name: str = "", owner: Optional[Table] = None) -> Table:
    """The table of a section, of component `name` of `registry`, or of one group of the component with table `owner`.

    A component has the entries of its section in the schema and the parameters of its constructor: of a key in both,
    the schema says type and help, the constructor the default. Without `registry` only the schema's are known. A group
    may set again whatever makes sense for a part of its owner; nothing is required or filled in twice.
    Raises UnknownComponent.
    """
    if owner is not None:
        shared = {key.name: replace(key, default=ABSENT) for key in owner.keys.values()
                  if not is_nested(key.type) or isinstance(key.type, Component)}
        return Table({**kind.keys, **{key: shared[key] for key in shared if key not in kind.keys}},
                     {**owner.legacy, **kind.legacy}, kind.aliases, owner.open_ended)
    if not isinstance(kind, Component):
        return Table(kind.keys, kind.legacy, kind.aliases)
    keys, legacy = dict(kind.keys), dict(kind.legacy)
    if registry is not None:
        parameters = registry.parameters(name)
        legacy = {key: reason for key, reason in {**legacy, **registry.legacy(name)}.items() if key not in parameters}
        for parameter in parameters.values():
            default = REQUIRED if parameter.required else parameter.default if _plain(parameter.default) else ABSENT
            key = keys.pop(parameter.name, None) or Key(parameter.name, parameter.annotation, ABSENT, "")
            keys[key.name] = replace(key, default=default) if key.default is ABSENT else key
        keys = {name: key for name, key in keys.items() if name in parameters or not key.of_constructor}
        if isinstance(kind, ComponentList) and kind.inner in keys:
            keys[kind.inner] = replace(keys[kind.inner], type=kind)
    aliases = {alias: key for alias, key in kind.aliases.items() if key in keys or alias not in keys}
    return Table({name: key for name, key in keys.items() if name not in aliases}, legacy, aliases, registry is None)


def _plain(value: Any) -> bool:
    """Whether a constructor's default can stand in a YAML file."""
    if isinstance(value, (list, tuple)):
        return all(_plain(item) for item in value)
    return isinstance(value, (type(None), bool, int, float, str)) or (
        isinstance(value, dict) and all(isinstance(key, str) and _plain(item) for key, item in value.items()))


def rows(kind: Section, path: str = "", item: str = "*") -> Iterator[Tuple[str, Optional[str], Any, str]]:
    """(dotted name, type in words, default, help) of every key of a section of the schema, nested tables in place.

    A legacy key has no type; its help is the reason. `item` stands for the place in a list.
    """
    own = table(kind)
    for key in own.keys.values():
        name = join(path, key.name)
        yield name, type_in_words(key.type), key.default, key.help
        if is_nested(key.type):
            is_list = isinstance(key.type, (ComponentList, GroupList))
            yield from rows(key.type, join(name, item) if is_list else name, item)
    for legacy, reason in own.legacy.items():
        yield join(path, legacy), None, ABSENT, reason


def type_in_words(type: Any) -> str:
    """`int or null`, `soft | hard`, `list of TRANSFORMS`, `section`."""
    if isinstance(type, Component):
        return f"{'list of ' if isinstance(type, ComponentList) else ''}{type.registry}"
    return describe(type) if not is_nested(type) else "list of sections" if isinstance(type, GroupList) else "section"


def join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
