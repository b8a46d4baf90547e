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
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple, Type

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
        """Class decorator: make the class available under `names` (its own name when none is given) and `aliases`."""

        def decorate(target):
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
