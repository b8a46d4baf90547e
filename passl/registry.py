"""One decorator registry: a config name to the class (or factory) that answers to it.

A component's configuration keys are the parameters of its constructor, so there is no second place that lists or
validates them: `config.check` reads the signature (names, defaults, type annotations) through `Registry.parameters`.
Parameters named in `context` are handed over by the code that builds the component (a dataset's transform, an
optimizer's parameter list) and cannot be set from YAML. `legacy` maps keys that older PASSL files carry to the reason
why they have no effect; they are accepted with a warning and dropped.
"""
from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import pkgutil
import typing
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, List, Literal, Mapping, Optional, Tuple, Type, Union

from passl.errors import UnknownComponent, UserError


def nearest(name: str, candidates) -> str:
    """` (did you mean 'x'?)` for the closest candidate, or an empty string when nothing is close."""
    close = difflib.get_close_matches(str(name), [str(c) for c in candidates], n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def choices(annotation: Any) -> Tuple[Any, ...]:
    """The values that `Literal[...]` or `Optional[Literal[...]]` declares; empty for every other annotation."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return arguments
    if origin is Union and any(typing.get_origin(argument) is Literal for argument in arguments):
        declared = [(None,) if argument is type(None) else choices(argument) for argument in arguments]
        return sum(declared, ()) if all(declared) else ()
    return ()


def is_declared(value: Any, declared: Tuple[Any, ...]) -> bool:
    """Whether `value` is one of the values declared, of the same type: True is not 1."""
    return any(type(value) is type(choice) and value == choice for choice in declared)


def check_literals(function: Callable) -> Callable:
    """Decorator: refuse an argument that is none of the values its annotation `Literal[...]` declares.

    `register` applies it to every component, so that a constructor called from Python refuses what a config would be
    refused for. UserError names the parameter, the value and what is allowed.
    """
    if hasattr(function, "_checks_literals") or not getattr(function, "__annotations__", None):
        return function
    signature = inspect.signature(function)

    @functools.lru_cache(maxsize=None)
    def declared():  # at the first call: annotations may name what is defined further down
        found = {name: choices(hint) for name, hint in typing.get_type_hints(function).items() if name != "return"}
        return {name: values for name, values in found.items() if values}

    @functools.wraps(function)
    def checked(*args, **kwargs):
        if declared():
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError:
                return function(*args, **kwargs)  # says better what does not fit
            for name, values in declared().items():
                if name in given and not is_declared(given[name], values):
                    raise UserError(f"{name}: {given[name]!r} is not one of {', '.join(map(str, values))}")
        return function(*args, **kwargs)

    checked.__dict__["_checks_literals"] = True
    return checked


@dataclass(frozen=True)
class Parameter:
    """One configuration key of a component: its annotation (typing.Any when absent) and default."""

    name: str
    annotation: Any
    default: Any
    required: bool


@dataclass
class Entry:
    target: Callable
    context: Tuple[str, ...] = ()
    legacy: Dict[str, str] = field(default_factory=dict)
    is_alias: bool = False


class Registry:
    """Names to components of one kind; the modules of `package` are imported at the first look-up.

    A new component is a new file in that package: no list needs an edit.
    trunks: `{trunk}` in a name stands for each name of this other registry.
    """

    def __init__(self, kind: str, package: str, trunks: Optional["Registry"] = None):
        self.kind = kind
        self.package = package
        self.trunks = trunks
        self.shared_options: Optional[Type] = None  # see `shared`
        self._entries: Dict[str, Entry] = {}
        self._imported = False

    def register(self, *names: str, context: Tuple[str, ...] = (), legacy: Optional[Mapping[str, str]] = None,
                 aliases: Iterable[str] = ()):
        """Decorator: make a class or factory available under `names` (its own name when none is given) and `aliases`.

        Its constructor refuses values that a `Literal[...]` does not declare, see `check_literals`.
        """

        def decorate(target):
            if inspect.isclass(target):
                target.__init__ = check_literals(target.__init__)  # type: ignore[method-assign]  # that is the point
            else:
                target = check_literals(target)
            for name in (*(names or (target.__name__,)), *aliases):
                if name in self._entries and self._entries[name].target is not target:
                    raise UserError(f"{self.kind} '{name}' is registered twice")
                self._entries[name] = Entry(target, tuple(context), dict(legacy or {}), name in aliases)
            return target

        return decorate

    def shared(self, options: Type) -> Type:
        """Decorator of a dataclass: its fields are keys of every component; whoever builds one takes them out first."""
        self.shared_options = options
        return options

    def _import_package(self) -> None:
        if self._imported:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(getattr(package, "__path__", []), self.package + "."):
            importlib.import_module(module.name)
        self._imported = True

    def _all(self) -> Dict[str, Entry]:
        self._import_package()
        trunks = self.trunks.names(aliases=False) if self.trunks else [""]
        return {name.replace("{trunk}", trunk): entry for name, entry in self._entries.items() for trunk in trunks}

    def names(self, aliases: bool = True) -> List[str]:
        return sorted(name for name, entry in self._all().items() if aliases or not entry.is_alias)

    def __contains__(self, name: str) -> bool:
        return name in self._all()

    def entry(self, name: str) -> Entry:
        known = self._all()
        if name not in known:
            raise UnknownComponent(f"unknown {self.kind} '{name}'{nearest(name, known)}; "
                                   f"known: {', '.join(sorted(known))}")
        return known[name]

    def get(self, name: str) -> Callable:
        return self.entry(name).target

    def parameters(self, name: str) -> Dict[str, Parameter]:
        """Configuration keys of component `name`: those shared by all, then its constructor's, in their order."""
        entry, found = self.entry(name), {}
        for target in (self.shared_options, entry.target) if self.shared_options else (entry.target,):
            hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
            for parameter in inspect.signature(target).parameters.values():
                if parameter.name in entry.context or parameter.kind in (parameter.VAR_POSITIONAL,
                                                                         parameter.VAR_KEYWORD):
                    continue
                required = parameter.default is parameter.empty
                found[parameter.name] = Parameter(parameter.name, hints.get(parameter.name, Any),
                                                  None if required else parameter.default, required)
        return found

    def legacy(self, name: str) -> Dict[str, str]:
        return self.entry(name).legacy

    def build(self, spec: Mapping[str, Any], key: str = "name", **context):
        """Instantiate the component that `spec[key]` names with the rest of `spec`; `context` fills context parameters.

        Context arguments the component does not ask for are left out, so that builders can offer the same set to all.
        """
        arguments = dict(spec)
        if key not in arguments:
            raise UnknownComponent(f"a {self.kind} needs the key '{key}'; known: {', '.join(self.names())}")
        entry = self.entry(arguments.pop(key))
        for legacy_key in entry.legacy:
            arguments.pop(legacy_key, None)
        arguments.update({name: context[name] for name in entry.context if name in context})
        return entry.target(**arguments)


BACKBONES = Registry("backbone", "passl.models")
METHODS = Registry("method (Model.name)", "passl.methods", trunks=BACKBONES)
DATASETS = Registry("dataset", "passl.data")
TRANSFORMS = Registry("transform", "passl.data.augment")
SAMPLERS = Registry("sampler", "passl.data")
OPTIMIZERS = Registry("optimizer", "passl.optim")
SCHEDULES = Registry("learning-rate schedule", "passl.optim")
LOSSES = Registry("loss", "passl.methods")
METRICS = Registry("metric", "passl.evaluation")
