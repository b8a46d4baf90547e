"""`-o A.B.0.C=value`: one change to a loaded configuration.

The part before the first `=` is a dotted path: a whole number indexes a list, anything else names a key, and sections
that do not exist yet are made. A mapping replaces what was there as a whole, so `_delete_: True` in it says nothing
more; `A.B._delete_=True` empties a mapping, which later ones then fill. The value is read like an unquoted YAML scalar
(`passl.config.scalars`); one that starts with `[`, `{` or a quote is read as YAML flow text: `[1e-3, None]`,
`{name: AdamW}` and `'7'` work as in a file.
"""
from __future__ import annotations

from typing import Any

import yaml

from passl.config.config import Config
from passl.config.scalars import parse_scalar
from passl.config.yaml_text import parse_yaml
from passl.errors import ConfigError

DELETE = "_delete_"  # a mark in a mapping: start it afresh


def apply_override(config: Config, override: str) -> None:
    """Change `config` in place by one `A.B.0.C=value`; raises ConfigError when the text or the path does not fit."""
    origin = f"-o {override}"
    path, equals, text = override.partition("=")
    parts = path.strip().split(".")
    if not equals:
        raise ConfigError(f"{origin}: expected KEY=VALUE, for instance -o Global.epochs=100")
    if not all(parts):
        raise ConfigError(f"{origin}: the key has an empty part; write it like Model.backbone.type")
    value = without_marks(parse_value(text.strip(), origin), origin)
    section, local, container = config, (), config  # type: Config, tuple, Any
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        local += (part,)
        if isinstance(container, list):
            index = _index(container, part, ".".join(parts[:depth]), origin)
            if last:
                section.put_item(local, value, origin)
                return
            child = container[index]
        elif last and part == DELETE:
            if value is not True:
                raise ConfigError(f"{origin}: {DELETE} can only be True, which empties the mapping")
            for key in list(container):
                del container[key]
            return
        elif last:
            container.put(part, value, origin)
            return
        else:
            child = container.get(part)
        if child is None and isinstance(container, Config):
            container.put(part, Config(), origin)
            child = container[part]
        if not isinstance(child, (Config, list)):
            given = ".".join(parts[:depth + 1])
            raise ConfigError(f"{origin}: {given} is {child!r} ({config.where(given)}), nothing can be set below it")
        if isinstance(child, Config):
            section, local = child, ()
        container = child


def parse_value(text: str, origin: str) -> Any:
    """The value of an override: a scalar, or a list, mapping or quoted text in YAML flow form."""
    if text[:1] not in ("[", "{", "'", '"'):
        return parse_scalar(text)
    try:
        return parse_yaml("value: " + text, origin).plain()["value"]
    except ConfigError as error:
        cause = error.__cause__
        detail = cause.problem if isinstance(cause, yaml.MarkedYAMLError) else error.problems[0]
        raise ConfigError(f"{origin}: the value is not valid YAML: {detail}; to pass text, quote it twice") from None


def without_marks(value: Any, origin: str) -> Any:
    """`value` without `_delete_: True` in its mappings; nothing is left below them to delete."""
    if isinstance(value, list):
        return [without_marks(item, origin) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get(DELETE, True) is not True:
        raise ConfigError(f"{origin}: a mapping given by -o replaces the one before, so {DELETE} can only be True; to "
                          "keep the rest, set single keys (-o A.B=value)")
    return {key: without_marks(item, origin) for key, item in value.items() if key != DELETE}


def _index(items: list, part: str, path: str, origin: str) -> int:
    if not part.isdigit():
        raise ConfigError(f"{origin}: {path} is a list; expected an index from 0 to {len(items) - 1}, got '{part}'")
    if int(part) >= len(items):
        raise ConfigError(f"{origin}: index {part} is out of range, {path} has {len(items)} element(s)")
    return int(part)
