"""One decorator registry: a config name to the class (or factory) that answers to it.

A component's configuration keys are the parameters of its constructor, so there is no second place that lists or
validates them: `config.check` reads the signature (names, defaults, type annotations) through `Registry.parameters`.
Parameters named in `context` are handed over by the code that builds the component (a dataset's transform, an
optimizer's parameter list) and cannot be set from YAML. `legacy` maps keys that older PASSL files carry to the reason
why they have no effect; they are accepted with a warning and dropped.
"""
from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import typing
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

from passl.errors import UnknownComponent, UserError


def nearest(name: str, candidates) -> str:
    """` (did you mean 'x'?)` for the closest candidate, or an empty string when nothing is close."""
    close = difflib.get_close_matches(str(name), [str(c) for c in candidates], n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


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


class Registry:
    """Names to components of one kind; the modules of `package` are imported at the first look-up.

    A new component is a new file in that package: no list needs an edit.
    """

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self.package = package
        self._entries: Dict[str, Entry] = {}
        self._imported = False

    def register(self, *names: str, context: Tuple[str, ...] = (), legacy: Optional[Mapping[str, str]] = None):
        """Class decorator: make the class available under `names` (its own name when none is given)."""

        def decorate(target):
            for name in names or (target.__name__,):
                if name in self._entries and self._entries[name].target is not target:
                    raise UserError(f"{self.kind} '{name}' is registered twice")
                self._entries[name] = Entry(target, tuple(context), dict(legacy or {}))
            return target

        return decorate

    def _import_package(self) -> None:
        if self._imported:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(getattr(package, "__path__", []), self.package + "."):
            importlib.import_module(module.name)
        self._imported = True

    def names(self):
        self._import_package()
        return sorted(self._entries)

    def __contains__(self, name: str) -> bool:
        self._import_package()
        return name in self._entries

    def entry(self, name: str) -> Entry:
        self._import_package()
        if name not in self._entries:
            raise UnknownComponent(f"unknown {self.kind} '{name}'{nearest(name, self._entries)}; "
                                   f"known: {', '.join(sorted(self._entries))}")
        return self._entries[name]

    def get(self, name: str) -> Callable:
        return self.entry(name).target

    def parameters(self, name: str) -> Dict[str, Parameter]:
        """Configuration keys of component `name`, in the order of its constructor."""
        entry = self.entry(name)
        target = entry.target
        constructor = target.__init__ if inspect.isclass(target) else target
        hints = typing.get_type_hints(constructor)
        found = {}
        for parameter in inspect.signature(target).parameters.values():
            if parameter.name in entry.context or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
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


METHODS = Registry("method (Model.name)", "passl.methods")
BACKBONES = Registry("backbone", "passl.models")
DATASETS = Registry("dataset", "passl.data")
TRANSFORMS = Registry("transform", "passl.data.augment")
SAMPLERS = Registry("sampler", "passl.data")
OPTIMIZERS = Registry("optimizer", "passl.optim")
SCHEDULES = Registry("learning-rate schedule", "passl.optim")
LOSSES = Registry("loss", "passl.methods")
METRICS = Registry("metric", "passl.evaluation")
