import pytest

import passl
from passl.cli.run import make_parser, profiler_options


@pytest.fixture
def parser():
    return make_parser("passl-train", "Train.")


def test_overrides_after_one_o_and_repeated(parser):
    arguments = parser.parse_args(["-c", "a.yaml", "-o", "A=1", "B.0.C=x=y", "-o", "D=-1", "-p", "batch_range=[1, 2]"])
    assert arguments.override == ["A=1", "B.0.C=x=y", "D=-1"] and arguments.config == "a.yaml"
    assert arguments.profiler_options == "batch_range=[1, 2]"
    assert parser.parse_args(["--config", "a", "--override", "A=1"]).override == ["A=1"]
    assert parser.parse_args(["-c", "a"]).override == []


def test_version(parser, capsys):
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--version"])
    assert stopped.value.code == 0 and capsys.readouterr().out == f"passl {passl.__version__}\n"


def test_config_is_required(parser, capsys):
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args([])
    assert stopped.value.code == 2 and "the following arguments are required: -c/--config" in capsys.readouterr().err


def test_profiler_options():
    assert profiler_options("batch_range=[10, 20]; state=GPU;") == {"batch_range": "[10, 20]", "state": "GPU"}
    assert profiler_options(None) == {}
    with pytest.raises(ValueError, match="-p: expected KEY=VALUE pairs separated by ';', got 'state'"):
        profiler_options("state")
