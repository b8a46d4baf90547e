"""A YAML file, with the layers it names under `_base_`, to a `Config` that remembers the line of every key.

    _base_: ../../configs/_base_/swav.yaml         # or a list; relative to the file that names it
    Global:
      epochs: 200                                  # mappings merge, later wins; lists and scalars are replaced
    Optimizer:
      _delete_: True                               # start this mapping afresh instead of merging into the layer's
      name: AdamW

Layers apply in the order of the list, then the file itself.
"""
from __future__ import annotations

import os
from typing import Any, Sequence, Tuple

from passl.config.config import Config
from passl.config.overrides import apply_override
from passl.config.yaml_text import parse_yaml
from passl.errors import ConfigError
from passl.registry import nearest

BASE, DELETE = "_base_", "_delete_"


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Read `path` and its `_base_` layers, then apply `overrides` (`A.B.0.C=value`) in their order.

    Raises ConfigError for a missing or unreadable file (naming the chain of layers that led there), a YAML syntax
    error, duplicate keys (both lines), a cycle of layers, or an override that does not fit. Keys and types are not
    judged here: see `passl.config.check`.
    """
    config = _load_layers(os.path.normpath(os.path.expanduser(path)), ())
    _drop_delete_marks(config)
    for override in overrides:
        apply_override(config, override)
    return config


def _load_layers(path: str, chain: Tuple[str, ...]) -> Config:
    identity = [os.path.realpath(link) for link in chain]
    chain = chain + (path,)
    if os.path.realpath(path) in identity:
        raise ConfigError(f"{' -> '.join(chain)}: these {BASE} layers form a cycle")
    own = _read_file(path, chain)
    place = own.where(BASE)
    bases = own.pop(BASE, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{place}: {BASE} must be a path or a list of paths")
    merged = Config()
    for base in bases:
        place = os.path.join(os.path.dirname(path), os.path.expanduser(base))
        _merge(merged, _load_layers(os.path.normpath(place), chain))
    _merge(merged, own)
    return merged


def _merge(lower: Config, upper: Config) -> None:
    """Lay `upper` over `lower`, in place."""
    for key, value in upper.items():
        inherited = lower.get(key)
        if isinstance(value, Config) and isinstance(inherited, Config) and value.get(DELETE) is not True:
            _merge(inherited, value)
            lower.put(key, inherited, upper.where(key))
        else:
            lower.take(key, upper)


def _drop_delete_marks(value: Any) -> None:
    if isinstance(value, Config):
        value.pop(DELETE, None)
    for item in value.values() if isinstance(value, Config) else value if isinstance(value, list) else ():
        _drop_delete_marks(item)


def _read_file(path: str, chain: Tuple[str, ...]) -> Config:
    named_by = f" (layers: {' -> '.join(chain)})" if len(chain) > 1 else ""
    if os.path.isdir(path):
        raise ConfigError(f"{path}: this is a folder, not a YAML file{named_by}")
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise ConfigError(f"{path}: no such configuration file, nor the folder '{folder}'{named_by}")
        raise ConfigError(f"{path}: no such configuration file"
                          f"{nearest(os.path.basename(path), os.listdir(folder))}{named_by}")
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}){named_by}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}{named_by}") from error
    return parse_yaml(text, path)
