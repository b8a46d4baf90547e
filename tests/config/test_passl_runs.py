"""PASSL's own pretraining files with the real components: refused with the reason, or run and say what is odd."""
from pathlib import Path

import pytest

from passl.cli.train import main
from tests.engine.runs import write_images

FOLDER = Path(__file__).parent / "passl_yaml"
SMALL = ["Model.backbone.base_channels=4", "Model.backbone.hidden_mlp=8", "DataLoader.Train.loader.num_workers=0",
         "DataLoader.Train.dataset.size_crops=[32,24]", "Global.max_train_step=1", "Global.device=cpu"]


def run(name, tmp_path, *overrides):
    arguments = [part for override in (*SMALL, f"Global.output_dir={tmp_path / 'output'}", *overrides)
                 for part in ("-o", override)]
    return main(["-c", str(FOLDER / f"{name}.yaml"), *arguments])


@pytest.mark.parametrize("name", ["pt_1n8c", "pt_4n32c"])
def test_the_root_with_train_and_val_is_refused(name, tmp_path, capsys):
    for split in ("train", "val"):
        write_images(tmp_path / "ILSVRC2012" / split, 4)
    assert run(name, tmp_path, f"DataLoader.Train.dataset.root={tmp_path / 'ILSVRC2012'}") == 1
    assert "its only classes are train and val" in capsys.readouterr().err


@pytest.mark.parametrize("name, said", [
    ("pt_1n8c", ["Model.queue_length 3804 is rounded down to 3800",
                 "Model.freeze_prototypes_niters is 5005 and the run has 1200 steps",
                 "learning_rate 0.6 does not fit a global batch of 8"]),
    ("pt_4n32c", ["learning_rate 4.8 does not fit a global batch of 8"])])
def test_with_the_training_images_it_runs(name, said, tmp_path, capsys):
    root = write_images(tmp_path / "train", 24)
    assert run(name, tmp_path, f"DataLoader.Train.dataset.root={root}",
               "DataLoader.Train.sampler.batch_size=8") == 0
    output = capsys.readouterr()
    for sentence in said:
        assert sentence in output.out, output.out
    assert "Model.apex has no effect" in output.err
