"""Everything that `passl` and `passl.clustering` export has an example in its docstring, and the example is true."""
from __future__ import annotations

import doctest
import inspect
from typing import Iterator, Tuple

import pytest

import passl
import passl.clustering

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def exported() -> Iterator[Tuple[str, object]]:
    for module in (passl, passl.clustering):
        for name in module.__all__:
            if not name.startswith("__"):
                yield f"{module.__name__}.{name}", getattr(module, name)


def run(name: str, text: str) -> Tuple[int, str]:
    """How many lines of a docstring were run, and what was wrong, as `doctest` says it."""
    runner, complaints = doctest.DocTestRunner(optionflags=FLAGS, verbose=False), []
    result = runner.run(doctest.DocTestParser().get_doctest(text, {}, name, None, None), out=complaints.append)
    return result.attempted, "".join(complaints)


@pytest.mark.parametrize("name, thing", exported(), ids=lambda value: value if isinstance(value, str) else "")
def test_example_of(name, thing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write files
    tries, complaints = run(name, inspect.getdoc(thing) or "")
    assert tries, f"{name} has no example: lines that begin with >>> in its docstring"
    assert not complaints, complaints


@pytest.mark.parametrize("text, tries, wrong", [
    ("One sentence.", 0, False), (">>> 1 + 1\n2", 1, False), (">>> 1 + 1\n3", 1, True), (">>> 1 / 0", 1, True),
    (">>> round(1 / 3, 2), 'x'\n(0.33,   'x')", 1, False)])
def test_the_runner_sees_what_is_wrong(text, tries, wrong):
    found, complaints = run("example", text)
    assert (found, bool(complaints)) == (tries, wrong)
