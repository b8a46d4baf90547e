"""The example of docs/add_a_command.md works as it stands there."""
import re
import sys

import pytest

import passl.cli
import passl.inference
from passl.cli.main import VERBS, main
from tests.cli.shared import SERIAL


@pytest.fixture
def command(repository, tmp_path, monkeypatch):
    """The function and the command lie in folders that belong to the package, as new files in it would."""
    blocks = re.findall(r"```python\n(.*?)```", (repository / "docs" / "add_a_command.md").read_text(), re.S)
    for package, code in zip((passl.inference, passl.cli), blocks):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / "similar.py").write_text(code)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    monkeypatch.setitem(VERBS, "similar", ("passl.cli.similar", "nearest images"))
    assert len(blocks) == 2
    yield
    for package in (passl.inference, passl.cli):
        sys.modules.pop(f"{package.__name__}.similar", None)
        vars(package).pop("similar", None)


def test_prints_the_nearest_images_first(command, pretrained, pictures, capsys):
    paths = sorted((pictures / "train").rglob("*.png"))
    arguments = ["similar", str(pretrained), str(paths[3]), str(pictures / "train"), "--count", "3", *SERIAL]
    assert main(arguments) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if ".png" in line]
    assert lines[0] == ["1.000", str(paths[3])] and len(lines) == 3
    assert [cosine for cosine, _ in lines] == sorted((cosine for cosine, _ in lines), reverse=True)


def test_a_mistake_is_one_line(command, pretrained, pictures, capsys):
    assert main(["similar", str(pretrained), "gone.png", str(pictures / "train"), *SERIAL]) == 1
    assert "passl-similar: error: gone.png" in capsys.readouterr().err
