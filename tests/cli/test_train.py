"""The command as a user meets it: start-up time, and the message for every mistake."""
import os
import subprocess
import sys
import time

import pytest

from passl.cli.train import main
from tests.engine.runs import write_config, write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def config(tmp_path, images):
    return write_config(tmp_path, images)


def run(config, *overrides):
    """Exit status of the command in this process."""
    try:
        return main(["-c", str(config), "-o", "Global.epochs=1", *overrides])
    except SystemExit as exit_:
        return exit_.code


@pytest.mark.parametrize("code", [
    "import passl",
    "from passl.cli.train import main\ntry: main(['--help'])\nexcept SystemExit: pass",
])
def test_help_and_import_stay_clear_of_paddle_and_are_quick(code, repository):
    program = code + "\nimport sys\nassert not {'paddle', 'cv2', 'sklearn', 'numpy'} & set(sys.modules)"
    fastest = min(timed(program, repository) for _ in range(3))
    assert fastest < 0.5


def timed(program, repository):
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": str(repository)},
                   stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def test_trains_and_saves_the_resolved_config(config, tmp_path, capsys):
    assert run(config) == 0
    folder = tmp_path / "output" / "SwAV"
    assert (folder / "latest.pdparams").exists() and (folder / "first_batch.png").exists()
    from passl.config import check, load_config
    saved = check(load_config(str(folder / "config.yaml")))
    assert saved.Model.epsilon == 0.05 and saved.Global.epochs == 1
    output = capsys.readouterr().out
    assert "[Train][Epoch 1/1][Iter: 0/5] lr: 0.300000, loss: " in output and "images/sec" in output


def test_vector_of_mistakes(config, tmp_path, capsys):
    """Each: overrides -> what the message must hold (sections of the config are checked before anything is built)."""
    empty = tmp_path / "empty"
    empty.mkdir()
    parent = tmp_path / "imagenet"
    for name in ("train", "val"):
        (parent / name / "n01").mkdir(parents=True)
        (parent / name / "n01" / "a.png").write_bytes(b"")
    corrupt = write_images(tmp_path / "corrupt", 8)
    (corrupt / "class_0" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    data = "DataLoader.Train.dataset."
    mistakes = [
        (["Model.epsilonn=0.1"], ["epsilonn", "epsilon", "-o Model.epsilonn"]),
        (["Global.epochs=many"], ["Global.epochs", "many"]),
        ([f"{data}root={tmp_path / 'nowhere'}"], ["nowhere"]),
        ([f"{data}root={empty}"], ["empty"]),
        ([f"{data}root={parent}"], ["train", "val"]),
        ([f"{data}root={corrupt}"], ["000.png"]),
        (["DataLoader.Train.sampler.batch_size=64"], ["64", "batch"]),
        (["Model.queue_length=3"], ["queue_length 3", "shorter than one global batch (4 images)"]),
        (["Model.crops_for_assign=[0,5]"], ["crops_for_assign", "between 0 and 2"]),
        (["Model.nmb_crops=[2,6]"], ["nmb_crops", "num_crops"]),
        (["Model.assignment=medium"], ["soft or hard"]),
        (["Model.backbone.stem=large"], ["stem 'large'", "small"]),
        (["Global.checkpoint=nothing/latest"], ["no checkpoint at nothing/latest"]),
        (["Global.output_dir=/proc/nowhere"], ["cannot write", "Global.output_dir"]),
        (["Optimizer.name=LARS"], ["LARS", "MomentumLARC"]),
    ]
    for overrides, fragments in mistakes:
        status = run(config, *overrides)
        message = capsys.readouterr().err
        assert status in (1, 2), f"{overrides} ended with {status}"
        assert "Traceback" not in message
        for fragment in fragments:
            assert fragment in message, f"{overrides}: {fragment!r} is not in {message!r}"


def test_more_prototypes_than_sensible_is_said_before_the_first_step(config, capsys):
    assert run(config, "Model.backbone.nmb_prototypes=300", "Model.queue_length=0", "Global.max_train_step=1") == 0
    assert "nmb_prototypes 300 exceeds the 22 training images" in capsys.readouterr().out


def test_missing_config_names_the_file(tmp_path, capsys):
    assert run(tmp_path / "absent.yaml") == 2
    assert "absent.yaml" in capsys.readouterr().err
