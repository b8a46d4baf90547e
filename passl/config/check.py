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
from passl.config.typecheck import Mismatch, convert, describe, describe_value
from passl.errors import ConfigError, ConfigWarning, UnknownComponent
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
    checked = checker.section(SCHEMA, config, "", DEFAULT)
    if checker.problems:
        raise ConfigError(checker.problems)
    return checked


class _Checker:
    def __init__(self, registries: Mapping[str, Registry]):
        self.registries = registries
        self.usable: Dict[str, bool] = {}
        self.problems: List[str] = []

    # -- nested kinds ----------------------------------------------------------------------------------------------
    def value(self, kind: Any, value: Any, path: str, place: str, source: Config, key: str) -> Any:
        """`value`, found under `key` of `source`, as `kind` wants it."""
        if isinstance(kind, ComponentList):
            return self.component_list(kind, value, path, source, key)
        if isinstance(kind, GroupList):
            return self.group_list(kind, value, path, source, key)
        if isinstance(kind, Section):
            if not isinstance(value, Config):
                self.problems.append(f"{place}: {path}: expected a mapping, got {describe_value(value)}")
                return value
            return (self.component if isinstance(kind, Component) else self.section)(kind, value, path, place)
        try:
            return convert(value, kind)
        except Mismatch:
            if choices(kind):
                self.problems.append(f"{place}: {path}: {value!r} is not one of {', '.join(map(str, choices(kind)))}")
                return value
            hint = "; quote text that reads as a number" if kind in (str, Optional[str]) and _is_number(value) else ""
            self.problems.append(f"{place}: {path}: expected {describe(kind)}, got {describe_value(value)}{hint}")
            return value

    def section(self, kind: Section, value: Config, path: str, place: str) -> Config:
        return self.entries(kind.keys, kind.legacy, kind.aliases, value, path, place)

    def component(self, kind: Component, value: Config, path: str, place: str) -> Config:
        name = value.get(kind.selector)
        if name is None and kind.default is None:
            self.problems.append(f"{place}: {_join(path, kind.selector)}: missing required key; "
                                 f"it names the {kind.registry.lower()[:-1]}")
            return value
        result = Config()
        rest = copy.copy(value)
        if name is None:
            name = kind.default
            result.put(kind.selector, name, DEFAULT)
        else:
            result.take(kind.selector, value)
            rest.pop(kind.selector)
        where = result.where(kind.selector)
        if not isinstance(name, str):
            self.problems.append(f"{where}: {_join(path, kind.selector)}: expected str, got {describe_value(name)}")
            return value
        arguments = self.arguments(kind, name, rest, path, place, f"{where}: {_join(path, kind.selector)}")
        for key in arguments:
            result.take(key, arguments)
        return result

    def component_list(self, kind: ComponentList, value: Any, path: str, source: Config, key: str) -> Any:
        if not isinstance(value, list):
            self.problems.append(f"{source.where(key)}: {path}: expected a list of components, "
                                 f"got {describe_value(value)}")
            return value
        return [self.list_item(kind, item, f"{path}.{index}", source.where(f"{key}.{index}"))
                for index, item in enumerate(value)]

    def list_item(self, kind: ComponentList, item: Any, path: str, place: str) -> Any:
        if isinstance(item, str):
            item = Config({item: {}}, place)
        if not isinstance(item, Config) or len(item) != 1:
            self.problems.append(f"{place}: {path}: expected one 'Name: {{arguments}}', got {describe_value(item)}")
            return item
        name, arguments = next(iter(item.items()))
        arguments = Config() if arguments is None else arguments
        if not isinstance(arguments, Config):
            self.problems.append(f"{place}: {path}.{name}: expected a mapping of arguments, "
                                 f"got {describe_value(arguments)}")
            return item
        result = Config()
        result.put(name, self.arguments(kind, name, arguments, f"{path}.{name}", place, f"{place}: {path}"), place)
        return result

    def group_list(self, kind: GroupList, value: Any, path: str, source: Config, key: str) -> Any:
        if not isinstance(value, list) or not all(isinstance(item, Config) for item in value):
            self.problems.append(f"{source.where(key)}: {path}: expected a list of mappings, "
                                 f"got {describe_value(value)}")
            return value
        return [self.entries(kind.keys, kind.legacy, kind.aliases, item, f"{path}.{index}",
                             source.where(f"{key}.{index}"), kind.open_ended) for index, item in enumerate(value)]

    def arguments(self, kind: Component, name: str, value: Config, path: str, place: str, name_place: str) -> Config:
        """The keys of component `name`: the parameters of its constructor and the entries of the table."""
        keys, legacy, known = dict(kind.keys), dict(kind.legacy), False
        if self.is_usable(kind.registry):
            registry = self.registries[kind.registry]
            try:
                parameters = registry.parameters(name)
                legacy.update(registry.legacy(name))
                known = True
            except UnknownComponent as error:
                self.problems.append(f"{name_place}: {error}")
                parameters = {}
            for parameter in parameters.values():
                default = REQUIRED if parameter.required else parameter.default if _plain(parameter.default) else ABSENT
                mine = keys.pop(parameter.name, None)
                if mine is None:
                    mine = Key(parameter.name, parameter.annotation, default, "")
                elif mine.default is ABSENT:
                    mine = mine.with_default(default)
                keys[parameter.name] = mine
            legacy = {key: reason for key, reason in legacy.items() if key not in parameters}
            if known:
                keys = {key: spec for key, spec in keys.items() if key in parameters or not spec.of_constructor}
        inner = keys.get(kind.inner) if isinstance(kind, ComponentList) else None
        if inner is not None:
            keys[inner.name] = inner.with_type(kind)
        groups = {key.name: key.type.within(keys, legacy, open_ended=not known) for key in keys.values()
                  if isinstance(key.type, GroupList)}
        keys.update({name: keys[name].with_type(kind) for name, kind in groups.items()})
        aliases = {alias: key for alias, key in kind.aliases.items() if key in keys or alias not in keys}
        keys = {key: spec for key, spec in keys.items() if key not in aliases}
        return self.entries(keys, legacy, aliases, value, path, place, open_ended=not known)

    def is_usable(self, name: str) -> bool:
        """Whether components of this registry can be judged at all."""
        if name not in self.usable:
            registry = self.registries.get(name)
            try:
                self.usable[name] = registry is not None and bool(registry.names())
            except ImportError as error:
                warnings.warn(f"{registry.package} cannot be imported ({error}): the keys of every {registry.kind} "
                              f"pass unchecked", ConfigWarning, stacklevel=2)
                self.usable[name] = False
        return self.usable[name]

    # -- one mapping -----------------------------------------------------------------------------------------------
    def entries(self, keys: Mapping[str, Key], legacy: Mapping[str, str], aliases: Mapping[str, str], value: Config,
                path: str, place: str, open_ended: bool = False) -> Config:
        """`value` key by key. open_ended: keep keys that are not known instead of refusing them."""
        given: Dict[str, str] = {}  # name kept -> name written
        for written in value:
            name = aliases.get(written, written)
            if written in legacy:
                warnings.warn(f"{value.where(written)}: {_join(path, written)} has no effect: {legacy[written]}",
                              ConfigWarning, stacklevel=2)
            elif name in given:
                self.problems.append(f"{value.where(written)}: {_join(path, written)} and {_join(path, given[name])} "
                                     f"({value.where(given[name])}) are the same key; keep one")
            elif name in keys or open_ended:
                given[name] = written
            else:
                hint = nearest(written, keys) or f"; known: {', '.join(sorted(keys)) or 'none'}"
                self.problems.append(f"{value.where(written)}: unknown key {_join(path, written)}{hint}")
        result = Config()
        for name, key in keys.items():
            written = given.pop(name, None)
            if written is not None and not (is_nested(key.type) and value[written] is None):
                result.take(name, value, written, self.given(key, value, written, _join(path, written)))
            elif key.default is REQUIRED:
                about = f" ({key.help})" if key.help else ""
                self.problems.append(f"{'' if place == DEFAULT else place + ': '}missing required key "
                                     f"{_join(path, name)}{about}")
            elif key.default is not ABSENT:
                result.put(name, self.default(key, _join(path, name)), DEFAULT)
        for name, written in given.items():
            result.take(name, value, written)
        return result

    def given(self, key: Key, source: Config, written: str, path: str) -> Any:
        if source[written] is None and key.default is None:  # a default is right even where its annotation forgets it
            return None
        problems_before = len(self.problems)
        item = self.value(key.type, source[written], path, source.where(written), source, written)
        if len(self.problems) == problems_before:
            item = self.constrain(key, item, path, source.where(written))
        return item

    def default(self, key: Key, path: str) -> Any:
        if is_nested(key.type) and key.default == {}:
            return self.value(key.type, Config(), path, DEFAULT, Config(), key.name)
        try:
            return convert(copy.deepcopy(key.default), key.type)
        except Mismatch:
            return copy.deepcopy(key.default)

    def constrain(self, key: Key, value: Any, path: str, place: str) -> Any:
        if key.choices and value not in key.choices:
            self.problems.append(f"{place}: {path}: {value!r} is not one of {', '.join(map(str, key.choices))}")
        elif key.minimum is not None and isinstance(value, (int, float)) and not value >= key.minimum:
            self.problems.append(f"{place}: {path}: must be at least {key.minimum}, got {value!r}")
        elif key.convert is not None:
            try:
                return key.convert(value)
            except ValueError as error:
                self.problems.append(f"{place}: {path}: {error}, got {describe_value(value)}")
        return value


def _plain(value: Any) -> bool:
    """Whether a constructor's default can stand in a YAML file."""
    if isinstance(value, (list, tuple)):
        return all(_plain(item) for item in value)
    return isinstance(value, (type(None), bool, int, float, str)) or (
        isinstance(value, dict) and all(isinstance(key, str) and _plain(item) for key, item in value.items()))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
