import re

import pytest

import passl
from passl.cli.config_options import make_parser, profiler_options, read_config
from passl.config import check

FILE = "Global: {epochs: 100, task_type: x}\nModel: {name: anything}\n"


@pytest.fixture
def parser():
    return make_parser("passl-train", "Train.")


@pytest.fixture(autouse=True)
def checks_without_components(monkeypatch):
    monkeypatch.setattr("passl.cli.config_options.check", lambda config: check(config, {}))


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(FILE)
    return str(path)


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


def test_read_config_applies_overrides_in_order(parser, config_file, capsys):
    arguments = parser.parse_args(["-c", config_file, "-o", "Global.epochs=3", "Global.seed=0", "-o",
                                   "Global.epochs=4"])
    config = read_config(parser, arguments, ["Global.epochs=2", "Global.device=cpu"])
    assert (config.Global.epochs, config.Global.seed, config.Global.device) == (4, 0, "cpu")
    assert capsys.readouterr().err == (f"passl-train: warning: {config_file}:1: Global.task_type has no effect: "
                                       "Model.name decides the task\n")


def test_only_the_first_process_prints_warnings(parser, config_file, capsys, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ID", "3")
    read_config(parser, parser.parse_args(["-c", config_file]))
    assert capsys.readouterr().err == ""


def test_a_bad_configuration_ends_with_its_message_and_status_2(parser, config_file, capsys):
    with pytest.raises(SystemExit) as stopped:
        read_config(parser, parser.parse_args(["-c", config_file, "-o", "Global.epoch=3"]))
    assert stopped.value.code == 2
    assert re.search(r"^passl-train: -o Global.epoch=3: unknown key Global.epoch \(did you mean 'epochs'\?\)$",
                     capsys.readouterr().err, re.MULTILINE)


def test_profiler_options():
    assert profiler_options("batch_range=[10, 20]; state=GPU;") == {"batch_range": "[10, 20]", "state": "GPU"}
    assert profiler_options(None) == {}
    with pytest.raises(ValueError, match="-p: expected KEY=VALUE pairs separated by ';', got 'state'"):
        profiler_options("state")
