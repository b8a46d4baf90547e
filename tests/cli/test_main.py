"""`passl VERB` and the console scripts."""
import pytest

import passl
from passl.cli import main


def test_verbs(capsys):
    assert main.main([]) == 0 and main.main(["--version"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in main.VERBS) and passl.__version__ in out
    assert main.main(["predcit"]) == 2
    assert "did you mean 'predict'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main.main(["predict", "--help"])
    assert stop.value.code == 0


def test_every_verb_is_a_console_script(repository):
    text = (repository / "pyproject.toml").read_text()
    for verb, (module, _) in main.VERBS.items():
        assert f'passl-{verb} = "{module}:main"' in text
