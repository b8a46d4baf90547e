"""A YAML file, with the layers it names under `_base_`, to a `Config` that remembers the line of every key.

    _base_: ../../configs/_base_/swav.yaml         # or a list; relative to the file that names it
    Global:
      epochs: 200                                  # mappings merge, later wins; lists and scalars are replaced
    Optimizer:
      _delete_: True                               # start this mapping afresh instead of merging into the layer's
      name: AdamW

Layers apply in the order of the list, then the file itself. Keys are always text; unquoted values follow
`passl.config.scalars`, quoted ones are text. Anchors, aliases and `<<` work as in YAML 1.1.
"""
from __future__ import annotations

import os
from typing import Any, Dict, List, Sequence, Tuple

import yaml

from passl.config.config import Config
from passl.config.overrides import apply_override
from passl.config.scalars import parse_scalar
from passl.errors import ConfigError
from passl.registry import nearest

BASE, DELETE = "_base_", "_delete_"
MAX_NODES = 200_000  # far beyond any real file; stops aliases of aliases from filling the memory
MAX_DEPTH = 50
_PLAIN = "plain"


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Read `path` and its `_base_` layers, then apply `overrides` (`A.B.0.C=value`) in their order.

    Raises ConfigError for a missing or unreadable file (naming the chain of layers that led there), a YAML syntax
    error, duplicate keys (both lines), a cycle of layers, or an override that does not fit. Keys and types are not
    judged here: see `passl.config.check`.
    """
    config = _load_layers(os.path.normpath(os.fspath(path)), ())
    _drop_delete_marks(config)
    for override in overrides:
        apply_override(config, override)
    return config


def _load_layers(path: str, chain: Tuple[str, ...]) -> Config:
    identity = [os.path.realpath(link) for link in chain]
    chain = chain + (path,)
    if os.path.realpath(path) in identity:
        raise ConfigError(f"{_chain(chain)}: these {BASE} layers form a cycle")
    own = _read_file(path, chain)
    place = own.where(BASE)
    bases = own.pop(BASE, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{place}: {BASE} must be a path or a list of paths")
    merged = Config()
    for base in bases:
        _merge(merged, _load_layers(os.path.normpath(os.path.join(os.path.dirname(path), base)), chain))
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


def _chain(chain: Sequence[str]) -> str:
    return " -> ".join(chain)


def _read_file(path: str, chain: Tuple[str, ...]) -> Config:
    named_by = f" (layers: {_chain(chain)})" if len(chain) > 1 else ""
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


def parse_yaml(text: str, name: str) -> Config:
    """One YAML document whose top level is a mapping; `name` stands for the file in messages and in `where`."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(f"{name}:{mark.line + 1}: YAML syntax: {error.problem or error.context}"
                          f" (column {mark.column + 1})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: YAML syntax: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None
    if node is None:
        return Config()
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{name}:{node.start_mark.line + 1}: the top level must be sections such as 'Global:', "
                          f"not a {node.id}")
    return _Builder(name).build(node)


class _Loader(yaml.SafeLoader):
    def resolve(self, kind, value, implicit):
        """Unquoted, untagged scalars keep a mark of their own, so that the builder can tell them from quoted ones."""
        if kind is yaml.ScalarNode and implicit[0]:
            return _PLAIN
        return super().resolve(kind, value, (False, False) if kind is yaml.ScalarNode else implicit)


class _Builder:
    """Turns composed YAML nodes into Configs, lists and scalars, and collects duplicate keys."""

    def __init__(self, name: str):
        self.name = name
        self.problems: List[str] = []
        self.count = 0
        self.open_nodes: set = set()

    def build(self, root: yaml.MappingNode) -> Config:
        config = self.value(root)
        if self.problems:
            raise ConfigError(self.problems)
        return config

    def place(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"

    def value(self, node: yaml.Node) -> Any:
        self.count += 1
        if self.count > MAX_NODES:
            raise ConfigError(f"{self.place(node)}: more than {MAX_NODES} values; are aliases nested in aliases?")
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise ConfigError(f"{self.place(node)}: the YAML tag '{node.tag}' is not supported")
        if id(node) in self.open_nodes:
            raise ConfigError(f"{self.place(node)}: this anchor contains itself")
        if len(self.open_nodes) >= MAX_DEPTH:
            raise ConfigError(f"{self.place(node)}: nested too deeply")
        self.open_nodes.add(id(node))
        built = self.mapping(node) if isinstance(node, yaml.MappingNode) else [self.value(item) for item in node.value]
        self.open_nodes.discard(id(node))
        return built

    def scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag == _PLAIN:
            return parse_scalar(node.value)
        if node.tag != "tag:yaml.org,2002:str":
            raise ConfigError(f"{self.place(node)}: the YAML tag '{node.tag}' is not supported")
        return node.value

    def mapping(self, node: yaml.MappingNode) -> Config:
        config, lines = Config(), {}  # type: Config, Dict[str, str]
        merged: List[Config] = []
        for key_node, value_node in node.value:
            place = self.place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{place}: a key must be a single word, not a {key_node.id}")
            key = key_node.value
            if key == "<<" and key_node.tag == _PLAIN:
                merged.extend(self.merge_sources(value_node))
                continue
            if key in lines:
                self.problems.append(f"{place}: duplicate key '{key}', first given at {lines[key]}")
                continue
            lines[key] = place
            config.put(key, self.value(value_node), place, self.item_places(value_node))
        for source in merged:
            for key in source:
                if key not in config:
                    config.take(key, source)
        return config

    def merge_sources(self, node: yaml.Node) -> List[Config]:
        sources = [self.value(item) for item in (node.value if isinstance(node, yaml.SequenceNode) else [node])]
        if not all(isinstance(source, Config) for source in sources):
            raise ConfigError(f"{self.place(node)}: '<<' takes a mapping or a list of mappings")
        return sources

    def item_places(self, node: yaml.Node, path: Tuple[str, ...] = ()) -> Dict[Tuple[str, ...], str]:
        """The line of every list element below `node`, down to the next mapping (a Config keeps its own)."""
        places: Dict[Tuple[str, ...], str] = {}
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                places[path + (str(index),)] = self.place(item)
                places.update(self.item_places(item, path + (str(index),)))
        return places
