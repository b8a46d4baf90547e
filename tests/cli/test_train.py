"""The command as a user meets it: start-up time, and the message for every mistake."""
import os
import re
import subprocess
import sys

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
    """Half a second of processor time: what the clock on the wall says depends on what else the machine does."""
    program = code + """
import sys, time
assert not {'paddle', 'cv2', 'sklearn', 'numpy'} & set(sys.modules)
print(time.process_time(), file=sys.stderr)"""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    runs = [subprocess.run([sys.executable, "-c", program], check=True, env=environment, capture_output=True, text=True)
            for _ in range(3)]
    assert min(float(run.stderr) for run in runs) < 0.5


def test_trains_and_saves_the_resolved_config(config, tmp_path, capsys):
    assert run(config) == 0
    folder = tmp_path / "output" / "SwAV"
    assert (folder / "latest.pdparams").exists() and (folder / "first_batch.png").exists()
    from passl.config import check, load_config
    saved = check(load_config(str(folder / "config.yaml")))
    assert saved.Model.epsilon == 0.05 and saved.Global.epochs == 1
    output = capsys.readouterr().out
    assert "[Train][Epoch 1/1][Iter: 0/5] lr: 0.300000, loss: " in output and "images/sec" in output


@pytest.fixture
def roots(tmp_path):
    """Folders a data root might name by mistake."""
    (tmp_path / "empty").mkdir()
    for name in ("train", "val"):
        (tmp_path / "imagenet" / name / "n01").mkdir(parents=True)
        (tmp_path / "imagenet" / name / "n01" / "a.png").write_bytes(b"")
    corrupt = write_images(tmp_path / "corrupt", 8)
    (corrupt / "class_0" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return tmp_path


DATA = "DataLoader.Train.dataset."
MISTAKES = {  # override -> what the message says, as a regular expression
    "Model.epsilonn=0.1": r"-o Model.epsilonn=0.1: unknown key Model.epsilonn \(did you mean 'epsilon'\?\)",
    "Global.epochs=many": r"-o Global.epochs=many: Global.epochs: expected int, got 'many'",
    "Global.num_threads=many": r"-o Global.num_threads=many: Global.num_threads: expected int or null, got 'many'",
    "Global=5": r"Global: expected a mapping, got 5",
    "Global.flags=5": r"Global.flags: expected .*, got 5",
    f"{DATA}batch_transform=[ToTensor]": r"unknown key DataLoader.Train.dataset.batch_transform",
    f"{DATA}transform=[ToTensor]": r"unknown key DataLoader.Train.dataset.transform",
    f"{DATA}root=ROOTS/nowhere": r"data root .*nowhere does not exist \(looked from .*set DataLoader",
    f"{DATA}root=ROOTS/empty": r"empty: no images found; looked in all sub-folders for \.jpg",
    f"{DATA}root=ROOTS/imagenet": r"imagenet: its only classes are train and val.* set root to .*imagenet/train",
    f"{DATA}root=ROOTS/corrupt": r"corrupt/class_0/000.png: (damaged|not an) image",
    "DataLoader.Train.sampler.batch_size=64": r"22 images make no whole batch: .* zero iterations; lower",
    "Model.queue_length=3": r"Model.queue_length 3 is shorter than one global batch \(4 images\).*set it to 0",
    "Model.crops_for_assign=[0,5]": r"Model.crops_for_assign \[0, 5\] must name different crops between 0 and 2",
    "Model.nmb_crops=[2,6]": r"Model.nmb_crops \[2, 6\] promises 8 crops an image but .*num_crops gives 3",
    "Model.assignment=medium": r"Model.assignment: 'medium' is not one of soft, hard",
    "Model.backbone.stem=large": r"stem 'large' is not known; choose one of imagenet, small",
    "Model.backbone.base_channels=0": r"base_channels is 0; a network needs at least one channel",
    "Model.backbone.nmb_prototypes=-5": r"nmb_prototypes is -5: with fewer than 2 every image",
    "Global.checkpoint=nothing/latest": r"no checkpoint at nothing/latest",
    "Global.output_dir=/proc/nowhere": r"cannot write to /proc/nowhere/.*-o Global.output_dir=",
    "Optimizer.name=LARS": r"unknown optimizer 'LARS'.*known: .*MomentumLARC",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_ends_with_one_message_that_says_what_to_do(override, config, roots, capsys, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    status = run(config, override.replace("ROOTS", str(roots)))
    message = capsys.readouterr().err
    assert status in (1, 2) and "Traceback" not in message
    assert re.search(MISTAKES[override], message), message


def test_more_prototypes_than_sensible_is_said_before_the_first_step(config, capsys):
    assert run(config, "Model.backbone.nmb_prototypes=300", "Model.queue_length=0", "Global.max_train_step=1") == 0
    assert "nmb_prototypes 300 exceeds the 22 training images" in capsys.readouterr().out


def test_missing_config_names_the_file(tmp_path, capsys):
    assert run(tmp_path / "absent.yaml") == 2
    assert "absent.yaml" in capsys.readouterr().err
