"""Whatever may be set is read: every key of the schema and every parameter of a component, found in the source."""
import ast
import inspect
import textwrap
from pathlib import Path
from typing import Callable, Iterator, Literal, Set, get_type_hints

import pytest

import passl
import passl.registry
from passl.config.check import REGISTRIES
from passl.config.fields import Component, Key, Section
from passl.config.schema import SCHEMA
from passl.engine.precision import LossScaler
from passl.registry import choices

LOOKUPS = ("get", "pop", "get_path")
# Sections that are handed to a constructor as a whole; test_constructors judges what becomes of its parameters.
AS_A_WHOLE = {"FP16.GradScaler": LossScaler}


def keys_read(code: str) -> Set[str]:
    """Keys that code looks up: `x["key"]`, `x.get("key")`, `"key" in x`, `x.Global.key`; parts of dotted paths too."""
    asked, found = [], set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            asked.append(node.slice)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOOKUPS:
            asked += node.args[:1]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            asked.append(node.left)
        elif isinstance(node, ast.Attribute) and getattr(node.value, "attr", None) in SCHEMA.keys:
            found.add(node.attr)
    texts = [node.value for node in asked if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return found.union(*(text.split(".") for text in texts))


def unread_parameters(constructor: Callable) -> Set[str]:
    """Parameters that the code of a function never mentions again; those of a single allowed value need not be."""
    constructor = inspect.unwrap(constructor)
    if not inspect.isfunction(constructor):
        return set()
    tree = ast.parse(textwrap.dedent(inspect.getsource(constructor))).body[0]
    names = {node.id for statement in tree.body for node in ast.walk(statement) if isinstance(node, ast.Name)}
    single = {name for name, hint in get_type_hints(constructor).items() if len(choices(hint)) == 1}
    return set(inspect.signature(constructor).parameters) - names - single - {"self"}


def unread_keys(section: Section, read: Set[str], path: str = "") -> Iterator[str]:
    for key in section.keys.values():
        name = f"{path}.{key.name}".lstrip(".")
        if isinstance(key.type, Section):
            yield from unread_keys(key.type, read, name)
        if path in AS_A_WHOLE:
            read = read | set(inspect.signature(AS_A_WHOLE[path]).parameters)
        elif isinstance(section, Component):  # some of its keys say more of constructors' parameters
            registry = getattr(passl.registry, section.registry)
            read = read.union(*(registry.parameters(component) for component in registry.names()))
        if key.name not in read:
            yield name


def test_every_key_of_the_schema_is_looked_up():
    # What checks and rewrites configurations does not count: the run has to ask.
    files = [path for path in Path(passl.__file__).parent.rglob("*.py") if path.parent.name != "config"]
    read = set().union(*(keys_read(path.read_text(encoding="utf-8")) for path in files))
    assert list(unread_keys(SCHEMA, read)) == []
    assert list(unread_keys(Section(Key("momentun", float, 0.9, "Mistyped.")), read)) == ["momentun"]


CONSTRUCTORS = [pytest.param(target if not inspect.isclass(target) else target.__init__, id=f"{registry}.{name}")
                for registry in REGISTRIES for name in getattr(passl.registry, registry).names()
                for target in [getattr(passl.registry, registry).get(name)]]


@pytest.mark.parametrize("constructor", [*CONSTRUCTORS, *(whole.__init__ for whole in AS_A_WHOLE.values())])
def test_every_parameter_of_a_component_is_used(constructor):
    assert unread_parameters(constructor) == set()


def test_the_checks_can_fail():
    def build(rate, unused: Literal[1, 2], only: Literal[1] = 1, *, name):
        return rate, name
    assert unread_parameters(build) == {"unused"}
    assert keys_read('a["x"]; b.get("y.z"); "w" in c; d["v"] = e.u; f("t"); g.Global.s') == {*"xyzws"}
