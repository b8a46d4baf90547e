"""The configuration object: a nested mapping that knows where each of its values came from."""
from __future__ import annotations

import copy
from typing import Any, Dict, Mapping, Optional, Tuple

import yaml

from passl.config.scalars import parse_scalar
from passl.files import write_text
from passl.registry import nearest

DEFAULT = "default"
IN_CODE = "set in code"
_ABSENT = object()


class Config(dict):
    """A mapping whose keys are also attributes: `config.Global.epochs` is `config["Global"]["epochs"]`.

    Mappings put into it become `Config`, also inside lists; other values are kept. A missing key raises AttributeError
    or KeyError with the nearest known key. Where a key has the name of a mapping method (`items`, `get`), attribute
    access gives the method and item access the value.
    """

    def __init__(self, values: Optional[Mapping[str, Any]] = None, origin: str = IN_CODE):
        super().__init__()
        # Path below this mapping, not reaching into nested Configs, which keep their own -> "file:line" or "-o A.B=..".
        self.__dict__["_origins"] = {}
        for key, value in (values or {}).items():
            self.put(key, value, origin)

    # -- reading ---------------------------------------------------------------------------------------------------
    def __getattr__(self, key: str) -> Any:
        if key in self:
            return self[key]
        if key.startswith("__"):
            raise AttributeError(key)
        raise AttributeError(self._missing(key))

    def __missing__(self, key: str):
        raise KeyError(self._missing(key))

    def _missing(self, key: str) -> str:
        return f"no configuration key '{key}' here{nearest(key, self)}; there are: {', '.join(self) or 'none'}"

    def get_path(self, path: str, default: Any = None) -> Any:
        """The value at a dotted path such as `DataLoader.Train.dataset.transform.0`, or `default`."""
        value: Any = self
        for part in path.split("."):
            value = _step(value, part)
            if value is _ABSENT:
                return default
        return value

    def where(self, path: str) -> str:
        """Where the value at a dotted path was written: `file.yaml:12`, `-o A.B=..`, `default` or `set in code`.

        A path that does not exist answers with the place of the innermost section around it.
        """
        section, local, origin = self, (), DEFAULT  # type: Config, Tuple[str, ...], str
        value: Any = self
        for part in path.split("."):
            value = _step(value, part)
            if value is _ABSENT:
                break
            local += (part,)
            origin = section._origins.get(local, origin)
            if isinstance(value, Config):
                section, local = value, ()
        return origin

    def plain(self) -> Dict[str, Any]:
        """A deep copy made of plain dicts and lists."""
        return _plain(self)

    def to_yaml(self) -> str:
        """YAML text in the order of the keys; `load_config` reads it back to equal values, floats to the last bit."""
        return yaml.dump(self.plain(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10 ** 6)

    def save(self, path: str) -> None:
        """Write `to_yaml()` to `path`, whole or not at all; folders are made as needed."""
        write_text(path, self.to_yaml())

    # -- writing ---------------------------------------------------------------------------------------------------
    def __setitem__(self, key: str, value: Any) -> None:
        self.put(key, value, IN_CODE)

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._forget(key)

    def pop(self, key: str, *default: Any) -> Any:
        self._forget(key)
        return super().pop(key, *default)

    def update(self, *others: Any, **values: Any) -> None:
        for key, value in dict(*others, **values).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def put(self, key: str, value: Any, origin: str, items: Optional[Mapping[Tuple[str, ...], str]] = None) -> None:
        """Set one key and where it came from; `items` names the places of list elements, by their path below `key`."""
        self._forget(key)
        super().__setitem__(key, _wrap(value, origin))
        self._origins[(key,)] = origin
        for path, item_origin in (items or {}).items():
            self._origins[(key,) + path] = item_origin

    def put_item(self, path: Tuple[str, ...], value: Any, origin: str) -> None:
        """Replace one list element below this mapping, `("milestones", "0")`; the other elements keep their places."""
        items = self[path[0]]
        for part in path[1:-1]:
            items = items[int(part)]
        items[int(path[-1])] = _wrap(value, origin)
        for place in [place for place in self._origins if place[:len(path)] == path]:
            del self._origins[place]
        self._origins[path] = origin

    def take(self, key: str, source: Config, source_key: Optional[str] = None, value: Any = _ABSENT) -> None:
        """Set `key` to what `source` has under `source_key` (or to `value`), with the places `source` knows for it."""
        source_key = key if source_key is None else source_key
        places = {path[1:]: origin for path, origin in source._origins.items() if path[0] == source_key}
        self.put(key, source[source_key] if value is _ABSENT else value, places.pop((), DEFAULT), places)

    def _forget(self, key: str) -> None:
        for path in [path for path in self._origins if path[0] == key]:
            del self._origins[path]

    # -- copies and pickles ----------------------------------------------------------------------------------------
    def copy(self) -> Config:
        return copy.copy(self)

    def __reduce__(self):
        return _restore, (dict(self), dict(self._origins))


def _restore(values: Dict[str, Any], origins: Dict[Tuple[str, ...], str]) -> Config:
    config = Config()
    dict.update(config, values)
    config._origins.update(origins)
    return config


def _step(value: Any, part: str) -> Any:
    if isinstance(value, Mapping):
        return value[part] if part in value else _ABSENT
    if isinstance(value, list) and part.isdigit() and int(part) < len(value):
        return value[int(part)]
    return _ABSENT


def _wrap(value: Any, origin: str) -> Any:
    if isinstance(value, Config):
        return value
    if isinstance(value, Mapping):
        return Config(value, origin)
    if isinstance(value, (list, tuple)):
        return [_wrap(item, origin) for item in value]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


class _Dumper(yaml.SafeDumper):
    """Lists of scalars on one line, sections as blocks, and quotes around text that would read as something else."""

    def ignore_aliases(self, data):
        return True

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)


def _represent_text(dumper: _Dumper, text: str):
    style: Optional[str]
    if not text.isprintable():  # PyYAML writes some line separators bare and reads them back as a space
        style = '"'
    else:
        style = None if isinstance(parse_scalar(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_list(dumper: _Dumper, items: list):
    one_line = not any(isinstance(item, (dict, list)) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=one_line)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(list, _represent_list)
