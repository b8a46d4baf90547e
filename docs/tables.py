"""`python docs/tables.py`: write the generated tables of the documentation anew.

A page marks the place of a table with `<!-- table: NAME -->` and `<!-- end -->`; what stands between is replaced.
NAME is a section of the schema (`Global`), `components: REGISTRY` (one line for each component), `details: REGISTRY`
(a table for each component, with what its docstring says about every key), or `recipes: PATTERN` (one line for each
config beside the page whose file name matches, from the header comment of the file).
"""
from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import passl.registry
from passl.config.fields import REQUIRED, Component, Section
from passl.config.schema import SCHEMA
from passl.config.table import rows
from passl.config.table import table as table_of
from passl.config.typecheck import describe

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "docs/configuration.md", *sorted(ROOT.glob("tasks/ssl/*/README.md"))]
MARKS = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
SAME_KEYS = ("DataLoader.Eval", "DataLoader.Bank")  # as DataLoader.Train; one table is enough


def render(page: Path) -> str:
    """The text of a page with every marked table replaced by its current content."""
    return MARKS.sub(lambda match: match[1] + table(match[2], page.parent) + match[3], page.read_text(encoding="utf-8"))


def table(name: str, folder: Path) -> str:
    kind, _, argument = name.partition(": ")
    if not argument:
        return _table("key | type | default | ", _keys(SCHEMA.keys[name].type, name))
    if kind == "recipes":
        return recipes(folder / "configs", argument)
    return {"components": components, "details": details}[kind](argument)


def recipes(folder: Path, pattern: str) -> str:
    rows = []
    for path in sorted(folder.glob(pattern)):
        header = _header(path.read_text(encoding="utf-8"))
        rows.append([f"[{path.stem}](configs/{path.name})", *(_cell(header.get(name, "")).rstrip(".") for name in
                                                              ("Reproduces", "Hardware", "Expected"))])
    return _table("config | what it reproduces | hardware and time | expected score (source) ", rows)


def _header(text: str) -> Dict[str, str]:
    """`# Name: text` paragraphs of the comment a config starts with."""
    found: Dict[str, str] = {}
    name = None
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        match = re.match(r"# ([A-Z][\w' ]{,30})(?: \([^)]*\))?: ?(.*)", line)
        if match:
            name, found[match[1]] = match[1], match[2]
        elif line.startswith("# Not run"):
            name = None
        elif name:
            found[name] += " " + line[1:].strip()
    return found


def _table(header: str, rows) -> str:
    columns = header.count("|") + 1
    lines = [f"| {header}|", "|" + "---|" * columns, *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join(lines) + "\n"


def _keys(kind: Section, path: str) -> Iterator[List[str]]:
    for name, type, default, help in rows(kind, path, item="0"):
        if name in SAME_KEYS:
            type, help = "section", help + " Keys as in `DataLoader.Train`."
        elif name.startswith(tuple(f"{same}." for same in SAME_KEYS)):
            continue
        yield [f"`{name}`", *([_cell(type), _cell(default), _cell(help)] if type else
                              ["-", "-", f"accepted, no effect: {_cell(help)}"])]


def components(registry: str) -> str:
    lines = []
    for names, target, keys in _grouped(registry):
        told = ", ".join(f"`{key.name}` {_cell(describe(key.type))}"
                         f"{'' if key.default is REQUIRED else f' ({_cell(key.default)})'}" for key in keys)
        lines.append([names, told or "none", _cell(_summary(target))])
    return _table("name | keys (default) | ", lines)


def details(registry: str) -> str:
    parts = []
    for names, target, keys in _grouped(registry):
        explained = _explained(target)
        lines = [[f"`{key.name}`", _cell(describe(key.type)), _cell(key.default), _cell(explained.get(key.name, ""))]
                 for key in keys]
        parts.append(f"**{names}**: {_cell(_summary(target))}\n\n" + _table("key | type | default | ", lines))
    return "\n" + "\n".join(parts) + "\n"


def _grouped(registry_name: str) -> List[Tuple[str, Any, list]]:
    """(names, target, keys) of every component; names of the same thing are together."""
    registry = getattr(passl.registry, registry_name)
    groups: Dict[Any, Tuple[List[str], Any, list]] = {}
    for name in registry.names():
        target, keys = registry.get(name), list(table_of(Component(registry_name), registry, name).keys.values())
        same = (f"{target.__module__}.{target.__qualname__}", str([(key.name, key.type, key.default) for key in keys]))
        groups.setdefault(same, ([], target, keys))[0].append(name)
    return sorted(((_names(names), target, keys) for names, target, keys in groups.values()),
                  key=lambda group: group[0])


def _names(names: List[str]) -> str:
    """`swav_resnet18_pretrain` and its like become one `swav_<network>_pretrain`."""
    own = [name for name in names if "_resnet" not in name]
    forms = sorted({re.sub(r"_resnet\w*?_", "_<network>_", name) for name in names if "_resnet" in name})
    return ", ".join(f"`{name}`" for name in own + forms)


def _summary(target: Any) -> str:
    """First sentence of a class's docstring; factories of networks have none."""
    text = " ".join((inspect.getdoc(target) or "").split("\n\n")[0].split())
    return text


def _explained(target: Any) -> Dict[str, str]:
    """key -> what the docstring says about it, base classes included; lines of the form `name: text`."""
    found: Dict[str, str] = {}
    for owner in reversed(inspect.getmro(target) if inspect.isclass(target) else [target]):
        for match in re.finditer(r"^([\w, .]+): (.+?)(?=\n\n|^[\w, .]+: |\Z)", inspect.cleandoc(owner.__doc__ or ""),
                                 re.MULTILINE | re.DOTALL):
            for name in match[1].split(", "):
                found[name] = match[2]
    return found


def _cell(value: Any) -> str:
    if isinstance(value, float):
        value = f"{value:.4g}"
    elif isinstance(value, tuple):
        value = f"[{', '.join(_cell(item) for item in value)}]"
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def main() -> int:
    for page in PAGES:
        page.write_text(render(page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
