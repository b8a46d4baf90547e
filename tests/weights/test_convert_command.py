import subprocess
import sys

import numpy as np
import pytest

from passl.cli import convert as command
from passl.weights import read
from passl.weights.formats.writers import write_paddle, write_torch
from passl.weights.layouts.convert import TARGETS
from passl.weights.layouts.keymaps import LAYOUTS
from tests.weights.checkpoints import (
    alexnet_shapes,
    filled,
    legacy_stream,
    preactivation_shapes,
    pretraining_shapes,
    renamed,
    resnet_shapes,
)
from tests.weights.library_layouts import V1

STATE = filled(pretraining_shapes())


@pytest.fixture
def released(tmp_path):
    path = tmp_path / "swav.pth.tar"
    path.write_bytes(legacy_stream({"epoch": 7, "state_dict": renamed(STATE, str, "module.")}))
    return path


def test_choices_are_those_of_the_library():
    assert set(command.TARGETS) == set(TARGETS) and set(command.LAYOUTS) == {"auto", *LAYOUTS}


def test_converts_prints_what_it_found_and_verifies(released, tmp_path, capsys):
    assert command.main([str(released), str(tmp_path / "o.pdparams"), "--verify", "--table"]) == 0
    out = capsys.readouterr().out
    for text in ("SwAV pretraining", "bottleneck [1, 1, 1, 1]", "16 hidden, with batch norm, 6 outputs",
                 "prototypes      5", "epoch           7", "module.conv1.weight", "verify scores"):
        assert text in out
    tensors = read(tmp_path / "o.pdparams").tensors
    np.testing.assert_array_equal(tensors["res_model.prototypes.weight"], STATE["prototypes.weight"].T)


def test_a_trunk_for_another_library_is_verified_by_its_features(released, tmp_path, capsys):
    assert command.main([str(released), str(tmp_path / "o.pkl"), "--verify"]) == 0
    out = capsys.readouterr().out
    assert "detectron2 has no place for 9 keys: module.projection_head.0.weight" in out
    assert "verify features" in out and "verify scores" not in out


def test_only_looks_without_a_target(released, capsys):
    assert command.main([str(released)]) == 0
    assert "prototypes      5" in capsys.readouterr().out


@pytest.mark.parametrize("name, target", [("o.pth", "torch-zip"), ("o.safetensors", "safetensors")])
def test_suffix_tells_the_target(released, tmp_path, name, target):
    assert command.main([str(released), str(tmp_path / name)]) == 0
    assert read(tmp_path / name).format == target


def test_unknown_keys_need_permission(tmp_path, capsys):
    write_torch(str(tmp_path / "x.pth"), {**STATE, "ema.decay": np.ones(1, np.float32)})
    arguments = [str(tmp_path / "x.pth"), str(tmp_path / "x.pdparams")]
    assert command.main(arguments) == 1
    assert "ema.decay" in capsys.readouterr().err and not (tmp_path / "x.pdparams").exists()
    assert command.main([*arguments, "--allow-unknown"]) == 0
    assert "left out as unknown: ema.decay" in capsys.readouterr().out


def test_wrong_usage(released, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main([str(released), str(tmp_path / "x.unknown")])
    assert stop.value.code == 2 and "does not tell a target" in capsys.readouterr().err
    assert command.main([str(tmp_path / "missing.pth")]) == 1
    assert "missing.pth" in capsys.readouterr().err


def test_table_and_part_work_without_a_target(released, capsys):
    assert command.main([str(released), "--table", "--part", "trunk"]) == 0
    out = capsys.readouterr().out
    assert "module.conv1.weight" in out and "res_model.encoder.conv1.weight" in out
    assert "module.prototypes" not in out
    assert command.main([str(released), "--part", "trunk"]) == 0
    assert "trunk           85 arrays" in capsys.readouterr().out


def test_version_and_folders(released, tmp_path, capsys):
    for arguments, status, text in ((["--version"], 0, "passl "),
                                    ([str(released), str(tmp_path), "--to", "paddle"], 2, "is a folder")):
        with pytest.raises(SystemExit) as stop:
            command.main(arguments)
        output = capsys.readouterr()
        assert stop.value.code == status and text in output.out + output.err


@pytest.mark.dist
def test_a_closed_pipe_is_no_error(released):
    script = "import sys\nfrom passl.cli.convert import main\nsys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", script, str(released), "--table"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    process.stdout.close()  # before the first line is printed
    assert process.stderr.read() == b""
    process.wait(60)


def corrupted(monkeypatch, name, change):
    """Let the writer damage one array."""
    module = sys.modules["passl.weights.layouts.convert"]  # the package has a function of that name

    def write(path, tree):
        write_paddle(path, {key: change(value) if key == name else value for key, value in tree.items()})
    monkeypatch.setattr(module, "write_paddle", write)


@pytest.mark.parametrize("name, change", [
    ("res_model.projection_head.0.weight", lambda array: array * np.float32(1.01)),
    ("res_model.encoder.conv1.weight", lambda array: array * np.float32(np.nan))], ids=["wrong", "nan"])
def test_a_wrong_output_fails_the_verification(released, tmp_path, capsys, monkeypatch, name, change):
    corrupted(monkeypatch, name, change)
    assert command.main([str(released), str(tmp_path / "o.pdparams"), "--verify"]) == 1
    message = capsys.readouterr().err
    assert ("1 of 94 weights hold NaN" if "encoder" in name else "differs by more than 0.0001") in message


CLASSIFIERS = {
    "fc": {"fc.weight": (10, 256), "fc.bias": (10,)}, "linear": {"linear.weight": (10, 256), "linear.bias": (10,)},
    "semi-supervised": {"projection_head.weight": (10, 256), "projection_head.bias": (10,)}}


@pytest.mark.parametrize("state", [*({**filled(resnet_shapes()), **filled(head)} for head in CLASSIFIERS.values()), V1],
                         ids=[*CLASSIFIERS, "sela"])
@pytest.mark.parametrize("to", ["paddle", "torchvision"])
def test_logits_of_classifiers_are_verified(tmp_path, capsys, monkeypatch, state, to):
    write_torch(str(tmp_path / "c.pth"), state)
    arguments = [str(tmp_path / "c.pth"), str(tmp_path / "o"), "--to", to, "--verify"]
    assert command.main(arguments) == 0
    assert "verify logits" in capsys.readouterr().out
    if to == "paddle":
        name = next(name for name in read(tmp_path / "o").tensors if name.endswith("bias") and "encoder" not in name)
        corrupted(monkeypatch, name, lambda array: array + np.float32(0.1))
        assert command.main(arguments) == 1


@pytest.mark.parametrize("state, what", [
    (filled(alexnet_shapes()), "not alexnet"), (filled(preactivation_shapes()), "not resnet50-preactivation"),
    (filled(CLASSIFIERS["linear"]), "not heads without a trunk"),
    ({**filled(resnet_shapes()), **filled({"linear.weight": (10, 1024)})}, "not linear.weight")])
def test_what_cannot_be_verified_is_refused_before_anything_is_written(tmp_path, capsys, state, what):
    write_torch(str(tmp_path / "c.pth"), state)
    assert command.main([str(tmp_path / "c.pth"), str(tmp_path / "o.pdparams"), "--verify"]) == 1
    assert what in capsys.readouterr().err and not (tmp_path / "o.pdparams").exists()


def test_help_imports_no_framework():
    script = ("import sys\nfrom passl.cli.convert import main\n"
              "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
              "assert not {'paddle', 'torch', 'numpy', 'cv2'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_reading_and_converting_import_no_framework(released, tmp_path):
    script = ("import sys\nfrom passl.cli.convert import main\nassert main(sys.argv[1:]) == 0\n"
              "assert not {'paddle', 'torch'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", script, str(released), str(tmp_path / "o.pdparams")], check=True,
                   capture_output=True)
