import subprocess
import sys

import numpy as np
import pytest

from passl.cli import convert as command
from passl.weights import read
from passl.weights.convert import TARGETS
from passl.weights.keymaps import LAYOUTS
from passl.weights.writers import write_torch
from tests.weights.checkpoints import filled, legacy_stream, pretraining_shapes, renamed

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
