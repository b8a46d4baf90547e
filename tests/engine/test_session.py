"""From a configuration to a running job: one way, with the same checks from Python and from a command."""
import re
import warnings

import pytest

import passl
from passl.cli.run import run_guarded
from passl.config import ConfigError, ConfigWarning, check
from passl.engine import session


@pytest.fixture
def plain(tmp_path, monkeypatch):
    """A configuration whose components are not looked at."""
    monkeypatch.setattr(session, "check", lambda config: check(config, {}))
    path = tmp_path / "a.yaml"
    path.write_text("Global: {epochs: 100, task_type: x}\nModel: {name: anything}\n")
    return path


def test_overrides_come_in_order_and_idle_keys_are_named(plain):
    with pytest.warns(ConfigWarning) as said:
        config = session.read(plain, ["Global.epochs=3", "Global.seed=0", "Global.epochs=4"])
    assert (config.Global.epochs, config.Global.seed) == (4, 0)
    assert [str(one.message) for one in said] == [f"{plain}:1: Global.task_type has no effect: Model.name decides the "
                                                  "task"]


def test_only_the_first_process_warns(plain, monkeypatch):
    monkeypatch.setattr(session.distributed, "rank", lambda: 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert session.read(plain).Global.epochs == 100


def test_only_training_needs_a_length(plain):
    plain.write_text("Model: {name: anything}\n")
    with pytest.raises(ConfigError, match="missing required key Global"):
        session.read(plain)
    assert session.read(plain, trains=False).Model.name == "anything"


def test_a_bad_configuration_ends_a_command_with_its_message_and_status_2(plain, capsys):
    assert run_guarded("passl-train", lambda: session.read(plain, ["Global.epoch=3"])) == 2
    assert re.search(r"^passl-train: -o Global.epoch=3: unknown key Global.epoch \(did you mean 'epochs'\?\)$",
                     capsys.readouterr().err, re.MULTILINE)


def test_faults_of_the_library_keep_their_traceback():
    def fail():
        raise KeyError("of this library")

    with pytest.raises(KeyError):
        run_guarded("passl-train", fail)


@pytest.mark.parametrize("override, message", [
    ("Global.flags=5", "Global.flags: expected mapping.*, got 5"), ("Global=5", "Global: expected a mapping, got 5"),
    ("Global.flags={PATH: x}", "Paddle flags start with FLAGS_"),
    ("Global.num_threads=many", "Global.num_threads: expected int or null, got 'many'")])
def test_python_makes_the_checks_of_the_command(config, override, message, monkeypatch):
    monkeypatch.setenv("PATH", session.environment.os.environ["PATH"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(ConfigError, match=message):
        passl.train(config, [override])


def test_train_takes_overrides_as_texts_and_as_keywords(config):
    folder = passl.train(config, ["Global.max_train_step=9"], **{"Global.max_train_step": 1, "Model.name": "SwAV"})
    assert folder == config.parent / "output" / "SwAV"
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
