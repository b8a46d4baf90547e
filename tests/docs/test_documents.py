"""What the documentation names exists: links, files, commands and their options, make targets, configuration keys."""
from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

import passl.registry
from passl.cli.main import VERBS
from passl.config.fields import Component, ComponentList, GroupList, Section
from passl.config.schema import SCHEMA

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tasks/**/*.md")])
# the examples of docs/add_a_*.md
WRITTEN_BY_THE_READER = {"passl/methods/centred_targets.py", "passl/models/plainnet.py", "passl/inference/similar.py",
                         "passl/cli/similar.py", "passl-similar"}
MOVED = {"Optimizer.lr_decay_unit"}  # PASSL's place; passl.config.normalise moves it into Optimizer.lr
TYPING_ERRORS = {"Model.epsilom"}  # shown as such
MARKS = {"Optimizer._delete_"}  # of passl.config.overrides, on any mapping
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def slug(heading: str) -> str:
    """The anchor GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def commands(page: Path) -> Iterator[List[str]]:
    """Every command of the page's bash blocks as words; continued lines are joined, comments and variables left out."""
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "bash":
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                    words.pop(0)
                if words:
                    yield words


def scripts() -> List[str]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = re.search(r"^\[project\.scripts\]\n(.*?)(?=^\[)", text, re.MULTILINE | re.DOTALL)[1]
    return re.findall(r"^([\w-]+) =", section, re.MULTILINE)


# --------------------------------------------------------------------------------------------------- links and files
@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        if not other.exists():
            broken.append(target)
        elif anchor and other.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", other.read_text(encoding="utf-8")), re.MULTILINE)
            if anchor not in map(slug, headings):
                broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_named_files_exist(page):
    named = re.findall(r"(?<![\w/.-])((?:tasks|configs|tools|docs|passl|tests)/[\w./-]*[\w-])(?![\w*<{/-])",
                       page.read_text(encoding="utf-8"))
    missing = {name for name in named if not (ROOT / name).exists() and not (page.parent / name).exists()}
    assert not missing - WRITTEN_BY_THE_READER


def test_generated_tables_are_current():
    import tables

    stale = [ids(page) for page in tables.PAGES if tables.render(page) != page.read_text(encoding="utf-8")]
    assert not stale, "run `python docs/tables.py`"


# --------------------------------------------------------------------------------------------------- commands
@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_exist(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.-])(passl-[a-z][a-z-]*[a-z])(?![\w*-])", text))
    assert not named - set(scripts()) - WRITTEN_BY_THE_READER
    assert not set(re.findall(r"`passl ([a-z][a-z-]+)", text)) - set(VERBS)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert not {words[1] for words in commands(page) if words[0] == "make" and len(words) > 1} - targets


@pytest.fixture(scope="module")
def help_texts():
    texts = {}

    def of(command: str, capsys) -> str:
        if command not in texts:
            with pytest.raises(SystemExit) as ended:
                importlib.import_module(VERBS[command[len("passl-"):]][0]).main(["--help"])
            assert ended.value.code == 0
            texts[command] = capsys.readouterr().out
        return texts[command]

    return of


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_options_of_commands_exist(page, help_texts, capsys):
    unknown = []
    for words in commands(page):
        found = [position for position, word in enumerate(words) if word in scripts()]
        if words[0] == "passl" and len(words) > 1 and words[1] in VERBS:
            found, words = [1], [words[0], f"passl-{words[1]}", *words[2:]]
        if found and words[found[0]] != "passl":
            text = help_texts(words[found[0]], capsys)
            for word in words[found[0] + 1:]:
                option = word.split("=")[0]
                if option.startswith("-") and not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text):
                    unknown.append(f"{words[found[0]]} {option}")
    assert not unknown


# --------------------------------------------------------------------------------------------------- keys
def known(parts: List[str], kind: Section) -> bool:
    """Whether a dotted path, below `kind`, is a key of the schema or of any component that may stand there."""
    if isinstance(kind, (ComponentList, GroupList)) and parts and parts[0].isdigit():
        parts = parts[1:]
    if not parts:
        return True
    name = kind.aliases.get(parts[0], parts[0])
    if name in kind.legacy:
        return len(parts) == 1
    if name in kind.keys:
        inner = kind.keys[name].type
        return known(parts[1:], inner) if isinstance(inner, Section) else len(parts) == 1 or inner is not str
    if isinstance(kind, GroupList):
        return known(parts, SCHEMA.keys["Optimizer"].type)
    if isinstance(kind, Component):
        registry = getattr(passl.registry, kind.registry)
        own = {key for component in registry.names() for key in (*registry.parameters(component),
                                                                 *registry.legacy(component))}
        return name in own | {kind.selector} | set(registry.names())
    return False


def keys(page: Path) -> Iterator[Tuple[str, str]]:
    for key in re.findall(r"(?<![\w.<>])([A-Z]\w+(?:\.\w+)+)(?![\w.(]|\.pd)", page.read_text(encoding="utf-8")):
        section, _, rest = key.partition(".")
        if section in SCHEMA.keys:
            yield key, rest


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_configuration_keys_exist(page):
    unknown = {key for key, rest in keys(page) if not known(rest.split("."), SCHEMA.keys[key.split(".")[0]].type)}
    assert not unknown - MOVED - TYPING_ERRORS - MARKS


@pytest.mark.parametrize("key, expected", [
    ("Model.epsilon", True), ("Model.epsilom", False), ("Model.backbone.stem", True), ("Model.apex", True),
    ("Optimizer.param_groups.0.lr.learning_rate", True), ("Optimizer.lr.learning_rat", False),
    ("Global.epochs", True), ("Global.epoch", False), ("DataLoader.Eval.dataset.root", True)])
def test_the_check_of_keys_can_fail(key, expected):
    section, _, rest = key.partition(".")
    assert known(rest.split("."), SCHEMA.keys[section].type) is expected


# --------------------------------------------------------------------------------------------------- languages
def test_both_languages_have_the_same_commands():
    english, chinese = (list(commands(ROOT / name)) for name in ("README.md", "docs/zh/README.md"))
    assert english == chinese
