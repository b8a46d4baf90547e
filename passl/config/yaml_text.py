"""One YAML document to a `Config` that remembers the line of every key.

Keys are always text; unquoted values follow `passl.config.scalars`, quoted ones are text. Anchors, aliases and `<<`
work as in YAML 1.1.
"""
from __future__ import annotations

from typing import Any, Dict, List, Tuple

import yaml

from passl.config.config import Config
from passl.config.scalars import parse_scalar
from passl.errors import ConfigError

MAX_NODES = 200_000  # far beyond any real file; stops aliases of aliases from filling the memory
MAX_DEPTH = 50
_PLAIN = "plain"


def parse_yaml(text: str, name: str) -> Config:
    """One YAML document whose top level is a mapping; `name` stands for the file in messages and in `where`."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark or yaml.Mark(name, 0, 0, 0, None, 0)
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
                          f"not a {'sequence' if isinstance(node, yaml.SequenceNode) else 'scalar'}")
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
