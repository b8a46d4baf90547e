"""The whole configuration against the schema and the registered components, every problem reported at once."""
from __future__ import annotations

import copy
import warnings
from typing import Any, Dict, List, Mapping, Optional

import passl.registry
from passl.config.config import DEFAULT, Config
from passl.config.fields import ABSENT, REQUIRED, Component, ComponentList, GroupList, Key, Section, is_nested
from passl.config.normalise import normalise
from passl.config.schema import SCHEMA
from passl.config.table import Table, join, table
from passl.config.typecheck import Mismatch, convert, describe, describe_value
from passl.errors import ConfigError, ConfigWarning, UnknownComponent, UserError
from passl.registry import Registry, choices, nearest

REGISTRIES = ("METHODS", "BACKBONES", "DATASETS", "TRANSFORMS", "SAMPLERS", "OPTIMIZERS", "SCHEDULES", "LOSSES",
              "METRICS")


def check(config: Config, registries: Optional[Mapping[str, Registry]] = None) -> Config:
    """A new Config with the defaults filled in, keys in the order of the tables and one spelling for each thing.

    registries: name in passl.registry -> registry, by default all of them. A registry whose package cannot be imported
    is left out with a warning, and so are empty ones: keys of their components pass unjudged.
    Raises ConfigError that lists all problems, each with its place; warns (ConfigWarning) about legacy keys, which are
    dropped. Checking a checked configuration changes nothing.
    """
    config = copy.deepcopy(config)
    if registries is None:
        registries = {name: getattr(passl.registry, name) for name in REGISTRIES}
    checker = _Checker(registries)
    checker.problems.extend(normalise(config))
    checked = checker.mapping(table(SCHEMA), config, "", DEFAULT)
    if checker.problems:
        raise ConfigError(checker.problems)
    return checked


class _Checker:
    """Walks a configuration along the tables of `passl.config.table` and collects what does not fit."""

    def __init__(self, registries: Mapping[str, Registry]):
        self.registries = registries
        self.usable: Dict[str, Optional[Registry]] = {}
        self.problems: List[str] = []

    def problem(self, place: str, path: str, text: str) -> None:
        self.problems.append(f"{place}: {path}: {text}")

    def refuse(self, place: str, path: str, expected: str, value: Any) -> Any:
        self.problem(place, path, f"expected {expected}, got {describe_value(value)}")
        return value

    def registry(self, name: str) -> Optional[Registry]:
        """The registry, or None when its components cannot be judged."""
        if name not in self.usable:
            self.usable[name] = registry = self.registries.get(name)
            try:
                if registry is not None and not registry.names():
                    self.usable[name] = None
            except ImportError as error:
                warnings.warn(f"{self.registries[name].package} cannot be imported ({error}): the keys of every "
                              f"{self.registries[name].kind} pass unchecked", ConfigWarning, stacklevel=2)
                self.usable[name] = None
        return self.usable[name]

    # -- one value -------------------------------------------------------------------------------------------------
    def value(self, kind: Any, value: Any, path: str, source: Config, key: str, owner: Table) -> Any:
        """`value`, found under `key` of `source` in the component or section of table `owner`, as `kind` wants it."""
        place = source.where(key)
        if isinstance(kind, (ComponentList, GroupList)):
            if not isinstance(value, list):
                items = "components" if isinstance(kind, ComponentList) else "mappings"
                return self.refuse(place, path, f"a list of {items}", value)
            places = [(item, f"{path}.{index}", source.where(f"{key}.{index}")) for index, item in enumerate(value)]
            if isinstance(kind, ComponentList):
                return [self.list_item(kind, *item) for item in places]
            group = table(kind, owner=owner)
            return [self.mapping(group, *item) for item in places]
        if isinstance(kind, Component):
            return self.component(kind, value, path, place)
        if isinstance(kind, Section):
            return self.mapping(table(kind), value, path, place)
        try:
            return convert(value, kind)
        except Mismatch:
            if choices(kind):
                self.problem(place, path, f"{value!r} is not one of {', '.join(map(str, choices(kind)))}")
                return value
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            hint = "; quote text that reads as a number" if kind in (str, Optional[str]) and is_number else ""
            self.problem(place, path, f"expected {describe(kind)}, got {describe_value(value)}{hint}")
            return value

    def component(self, kind: Component, value: Any, path: str, place: str) -> Any:
        if not isinstance(value, Config):
            return self.refuse(place, path, "a mapping", value)
        selector = join(path, kind.selector)
        result, rest = Config(), copy.copy(value)
        if rest.pop(kind.selector, None) is not None:
            result.take(kind.selector, value)
        elif kind.default is not None:
            result.put(kind.selector, kind.default, DEFAULT)
        else:
            self.problem(place, selector, f"missing required key; it names the {kind.registry.lower()[:-1]}")
            return value
        name, where = result[kind.selector], result.where(kind.selector)
        if not isinstance(name, str):
            self.refuse(where, selector, "str", name)
            return value
        arguments = self.arguments(kind, name, rest, path, place, f"{where}: {selector}")
        for key in arguments:
            result.take(key, arguments)
        return result

    def list_item(self, kind: ComponentList, item: Any, path: str, place: str) -> Any:
        if isinstance(item, str):
            item = Config({item: {}}, place)
        if not isinstance(item, Config) or len(item) != 1:
            return self.refuse(place, path, "one 'Name: {arguments}'", item)
        name, arguments = next(iter(item.items()))
        arguments = Config() if arguments is None else arguments
        if not isinstance(arguments, Config):
            self.refuse(place, f"{path}.{name}", "a mapping of arguments", arguments)
            return item
        result = Config()
        result.put(name, self.arguments(kind, name, arguments, f"{path}.{name}", place, f"{place}: {path}"), place)
        return result

    def arguments(self, kind: Component, name: str, value: Config, path: str, place: str, name_place: str) -> Config:
        """The keys of component `name`."""
        try:
            known = table(kind, self.registry(kind.registry), name)
        except UnknownComponent as error:
            self.problems.append(f"{name_place}: {error}")
            known = table(kind)
        return self.mapping(known, value, path, place)

    # -- one mapping -----------------------------------------------------------------------------------------------
    def mapping(self, known: Table, value: Any, path: str, place: str) -> Any:
        """`value` key by key."""
        if not isinstance(value, Config):
            return self.refuse(place, path, "a mapping", value)
        given = self.names(known, value, path)
        result = Config()
        for name, key in known.keys.items():
            written = given.pop(name, None)
            if written is not None and not (is_nested(key.type) and value[written] is None):
                result.take(name, value, written, self.given(key, value, written, join(path, written), known))
            elif key.default is REQUIRED:
                about = f" ({key.help})" if key.help else ""
                self.problems.append(f"{'' if place == DEFAULT else place + ': '}missing required key "
                                     f"{join(path, name)}{about}")
            elif key.default is not ABSENT:
                result.put(name, self.default(key, join(path, name), known), DEFAULT)
        for name, written in given.items():
            result.take(name, value, written)
        return result

    def names(self, known: Table, value: Config, path: str) -> Dict[str, str]:
        """Name kept -> name written, of the keys that are not dropped."""
        given: Dict[str, str] = {}
        for written in value:
            name, place = known.aliases.get(written, written), value.where(written)
            if written in known.legacy and value[written] is None:
                continue  # `validate_loop: None` asks for nothing
            elif written in known.legacy:
                warnings.warn(f"{place}: {join(path, written)} has no effect: {known.legacy[written]}", ConfigWarning,
                              stacklevel=2)
            elif name in given:
                self.problems.append(f"{place}: {join(path, written)} and {join(path, given[name])} "
                                     f"({value.where(given[name])}) are the same key; keep one")
            elif name in known.keys or known.open_ended:
                given[name] = written
            else:
                hint = nearest(written, known.keys) or f"; known: {', '.join(sorted(known.keys)) or 'none'}"
                self.problems.append(f"{place}: unknown key {join(path, written)}{hint}")
        return given

    def given(self, key: Key, source: Config, written: str, path: str, owner: Table) -> Any:
        if source[written] is None and key.default is None:  # a default is right even where its annotation forgets it
            return None
        problems_before = len(self.problems)
        item = self.value(key.type, source[written], path, source, written, owner)
        if len(self.problems) > problems_before:
            return item
        if key.minimum is not None and isinstance(item, (int, float)) and not item >= key.minimum:
            self.problem(source.where(written), path, f"must be at least {key.minimum}, got {item!r}")
        elif key.convert is not None:
            try:
                return key.convert(item)
            except UserError as error:
                self.problem(source.where(written), path, f"{error}, got {describe_value(item)}")
        return item

    def default(self, key: Key, path: str, owner: Table) -> Any:
        if is_nested(key.type) and key.default == {}:
            return self.value(key.type, Config(), path, Config(), key.name, owner)
        try:
            return convert(copy.deepcopy(key.default), key.type)
        except Mismatch:
            return copy.deepcopy(key.default)
