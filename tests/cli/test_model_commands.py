"""What the commands that use a trained model have in common: options, messages, warnings."""
import warnings

import pytest

from passl.cli import assign, embed, knn, predict, probe, recalibrate
from tests.cli.shared import SERIAL


@pytest.mark.parametrize("command", [predict, embed, assign, recalibrate])
def test_commands_of_one_process_refuse_a_launcher(command, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    with pytest.raises(SystemExit):
        command.main(["model", "images", "--output", str(tmp_path / "x")])
    assert "started 2 processes" in capsys.readouterr().err


@pytest.mark.parametrize("command, arguments, message", [
    (predict, ["--top-k", "0"], "--top-k 0"),
    (predict, ["--output", "nowhere/x.json"], "folder nowhere does not exist"),
    (assign, ["--output", "nowhere/x.csv"], "folder nowhere does not exist"),
    (assign, ["--output", "."], "is a folder"),
    (recalibrate, ["--output", "x", "--count", "0"], "--count 0"),
    (knn, ["--train", "a", "--test", "b", "--output", "nowhere/x.json"], "folder nowhere does not exist"),
    (probe, ["--train", "a", "--test", "b", "--output", "nowhere/x.json"], "folder nowhere does not exist")])
def test_wrong_options_end_before_the_work(command, arguments, message, capsys):
    images = [] if command in (knn, probe) else ["images"]
    with pytest.raises(SystemExit):
        command.main(["model", *images, *arguments])
    assert message in capsys.readouterr().err


def test_messages_speak_of_options_and_not_of_a_config(pretrained, pictures, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"broken")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/class").symlink_to(tmp_path / "in")
    output = ["--output", str(tmp_path / "out")]
    for command, arguments, message in (
            (embed, [str(tmp_path / "gone"), *output], "does not exist"),
            (embed, [str(tmp_path / "in"), *output], "--skip-unreadable leaves such files out"),
            (embed, [str(tmp_path / "in"), *output, "--threads", "-3"], "--threads -3 at least 1"),
            (knn, ["--train", str(pictures / "train"), "--test", "gone"], "--test gone does not exist"),
            (knn, ["--train", str(tmp_path / "tree"), "--test", str(pictures / "val")], "remove the file"),
            (recalibrate, [str(tmp_path / "in"), *output, "--batch-size", "1", "--size", "12"], "--skip-unreadable")):
        assert command.main([str(pretrained), *SERIAL, *arguments]) == 1
        error = capsys.readouterr().err
        assert message in error and "DataLoader" not in error and "image_errors" not in error


def test_warnings_are_lines_of_the_command(tmp_path, capsys):
    from passl.cli.run import run_guarded

    def warn():
        for message, file in (("theirs is odd", str(tmp_path / "other.py")), ("ours is odd", knn.__file__)):
            warnings.warn_explicit(message, UserWarning, file, 1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown = []
        warnings.showwarning = before = lambda message, category, filename, *rest: shown.append(filename)
        assert run_guarded("passl-knn", warn) == 0
        assert warnings.showwarning is before
    assert shown == [str(tmp_path / "other.py")] and capsys.readouterr().err == "passl-knn: warning: ours is odd\n"


def test_random_weights_are_no_features(pictures, tmp_path, capsys):
    assert embed.main(["resnet10", str(pictures), "--output", str(tmp_path / "x"), *SERIAL]) == 1
    assert "random weights" in capsys.readouterr().err


def test_engines_are_named_and_refused_when_missing(pretrained, pictures, tmp_path, capsys, monkeypatch):
    from passl.cli.embed import main as embed_main
    from passl.inference import backends, forward

    call = [str(pretrained), str(pictures / "val"), "--device", "cpu", "--batch-size", "2", "--output"]
    assert embed_main([*call, str(tmp_path / "short")]) == 0
    said = capsys.readouterr().err
    assert "engine: eager; the " in said and "images left take about 0 s" in said
    monkeypatch.setattr(forward, "recall", lambda: dict.fromkeys(["tried"], ""))
    monkeypatch.setattr(forward, "network_key", lambda *arguments: "tried")
    assert embed_main([*call, str(tmp_path / "paddle"), "--engine", "paddle"]) == 0
    assert "engine: paddle (Paddle " in capsys.readouterr().err
    monkeypatch.setattr(backends.OpenVINO, "missing", classmethod(lambda cls: ["openvino"]))
    assert embed_main([*call, str(tmp_path / "none"), "--engine", "openvino"]) == 1
    assert "needs openvino, not installed here: pip install 'passl[fast]'" in capsys.readouterr().err
    assert embed_main([*call, str(tmp_path / "scaled"), "--scaled-decoding"]) == 0
    assert "scaled" in (tmp_path / "scaled" / "progress.json").read_text()
