"""The rooms of passl/ stand in layers: imports run downwards only, and no files import each other in a circle."""
from __future__ import annotations

import ast
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, NamedTuple, Set, Tuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "passl"

# From the ground up. A room may import its own files and what stands on a lower line, nothing else.
LAYERS = [
    ["__init__"],  # the version; the names of the Python interface are looked up when they are first used
    ["errors"],
    ["findings", "files", "registry", "distributed"],
    ["arrays"],
    ["config", "data", "optim", "clustering"],
    ["models"],
    ["weights"],
    ["methods"],
    ["preflight", "evaluation"],
    ["inference"],
    ["engine"],
    ["report"],
    ["cli"],
]
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}


class Import(NamedTuple):
    """One import statement: file and line where it stands, file that it asks for, whether only for the type checker."""

    source: str
    line: int
    target: str
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def room(file: str) -> str:
    """passl/config/check.py -> config, passl/errors.py -> errors."""
    return Path(file).parts[1].split(".")[0]


def file_of(module: str) -> str:
    """The file that holds a dotted name: the module itself, or the one that a name is taken from."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return str(candidate.relative_to(PACKAGE.parent))
    return file_of(module.rpartition(".")[0])


def wanted(node: ast.AST, package: str) -> List[str]:
    """Dotted names of passl that a statement imports; `package` is where relative imports count from."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = ".".join(package.split(".")[:len(package.split(".")) + 1 - node.level]) if node.level else ""
        base = ".".join(part for part in (base, node.module) if part)
        names = [f"{base}.{alias.name}" for alias in node.names]
    else:
        names = []
    return [name for name in names if name.split(".")[0] == PACKAGE.name]


def is_for_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(text: str, file: str) -> Iterator[Import]:
    """Every import of passl in a file, at its top, inside functions and under TYPE_CHECKING."""
    package = ".".join(Path(file).parts[:-1])
    tree = ast.parse(text)
    hidden = {id(inner) for node in ast.walk(tree) if is_for_typing(node) for part in node.body
              for inner in ast.walk(part)}
    for node in ast.walk(tree):
        for target in sorted({file_of(name) for name in wanted(node, package)}):
            if target != file:
                yield Import(file, node.lineno, target, id(node) in hidden)


@lru_cache(maxsize=None)
def imports() -> List[Import]:
    files = sorted(str(path.relative_to(PACKAGE.parent)) for path in PACKAGE.rglob("*.py"))
    return [found for file in files
            for found in imports_of((PACKAGE.parent / file).read_text(encoding="utf-8"), file)]


def may_import(upper: str, lower: str) -> bool:
    """Whether a file of room `upper` may import one of room `lower`."""
    return lower == upper or HEIGHT[lower] < HEIGHT[upper]


def circle(edges: Iterable[Tuple[str, str]]) -> List[str]:
    """Files that import each other, the first one again at the end; empty when there is no circle."""
    graph: Dict[str, Set[str]] = {}
    for source, target in edges:
        graph.setdefault(source, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


def test_every_room_has_its_layer():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms == set(HEIGHT)


def test_imports_run_downwards():
    # An import for the type checker alone is one that a reader has to follow, too.
    assert not [str(found) for found in imports() if not may_import(room(found.source), room(found.target))]


def test_no_circle_of_files():
    assert circle((found.source, found.target) for found in imports() if not found.typing_only) == []


@pytest.mark.parametrize("text, targets", [
    ("import passl.errors", ["passl/errors.py"]),
    ("from passl import errors, files", ["passl/errors.py", "passl/files.py"]),
    ("from passl.errors import UserError", ["passl/errors.py"]),
    ("from passl.config import load_config", ["passl/config/__init__.py"]),
    ("from passl.config.check import check", ["passl/config/check.py"]),
    ("from . import kmeans", ["passl/clustering/kmeans.py"]),
    ("from .. import errors", ["passl/errors.py"]),
    ("from ..config.check import check", ["passl/config/check.py"]),
    ("def function():\n    from passl.config.check import check", ["passl/config/check.py"]),
    ("import numpy, passlib", []),
])
def test_the_reader_finds_imports(text, targets):
    found = list(imports_of(text, "passl/clustering/sinkhorn.py"))
    assert [one.target for one in found] == targets and not any(one.typing_only for one in found)


def test_the_reader_knows_imports_for_the_type_checker():
    text = "if typing.TYPE_CHECKING:\n    import passl.errors\nelse:\n    import passl.files\n"
    assert [(found.target, found.typing_only) for found in imports_of(text, "passl/arrays.py")] == [
        ("passl/errors.py", True), ("passl/files.py", False)]


@pytest.mark.parametrize("upper, lower, allowed", [
    ("cli", "errors", True), ("models", "models", True), ("engine", "cli", False), ("models", "weights", False),
    ("config", "data", False), ("arrays", "distributed", True), ("distributed", "arrays", False)])
def test_direction(upper, lower, allowed):
    assert may_import(upper, lower) is allowed


def test_a_circle_is_found():
    assert sorted(circle([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")])[1:]) == ["a", "b", "c"]
    assert circle([("a", "b"), ("a", "c"), ("b", "c")]) == []
