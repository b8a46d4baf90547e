"""The example of docs/add_a_method.md trains as it stands there and resumes exactly."""
import re
import sys

import numpy as np
import pytest

import passl.methods
from passl.registry import METHODS
from tests.engine.runs import CONFIG, trainer, write_images


@pytest.fixture
def example(repository, tmp_path, monkeypatch):
    """A config of the method; its file lies in a folder that belongs to the package, as a new file in it would."""
    text = (repository / "docs" / "add_a_method.md").read_text()
    code, model = (re.search(rf"```{kind}\n(.*?)```", text, re.S).group(1) for kind in ("python", "yaml"))
    assert 30 <= len(code.splitlines()) <= 55
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "centred_targets.py").write_text(code)
    assert "CentredTargets" not in METHODS
    monkeypatch.setattr(passl.methods, "__path__", [*passl.methods.__path__, str(tmp_path / "methods")])
    monkeypatch.setattr(METHODS, "_imported", False)  # as at the start of a process
    settings = CONFIG.format(images=write_images(tmp_path / "images"), output=tmp_path / "output", batch=4)
    start, end = settings.index("Model:"), settings.index("Optimizer:")
    config = tmp_path / "run.yaml"
    config.write_text(settings[:start] + model + settings[end:])
    yield config
    METHODS._entries.pop("CentredTargets", None)
    sys.modules.pop("passl.methods.centred_targets", None)


def state(run):
    weights = {name: value.numpy() for name, value in run.method.model.state_dict().items()}
    return {**weights, "centre": run.method.centre.numpy()}


def test_trains_and_resumes_exactly(example):
    straight = trainer(example)
    assert straight.method.sharpness == 0.05
    before = state(straight)
    straight.run()
    trainer(example, "Global.max_train_step=7", "Global.overwrite=True").run()  # in the middle of the second epoch
    resumed = trainer(example, f"Global.checkpoint={straight.folder / 'latest'}")
    resumed.run()
    after = state(straight)
    for name, value in state(resumed).items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)
    assert abs(after["centre"]).max() > 0.01
    assert any((after[name] != before[name]).any() for name in after if name.endswith("conv1.weight"))


def test_the_centre_moves_by_all_images_of_a_step_that_is_split(example):
    run = trainer(example, "Global.accum_steps=2", "Global.max_train_step=1")
    network, scores = run.method.network, []

    def watched(crops):
        embedding, score = network(crops)
        scores.append(score.reshape([len(crops), -1, score.shape[-1]])[:2].numpy())
        return embedding, score

    run.method.network = watched
    run.run()
    assert len(scores) == 2 and run.method.momentum == 0.9
    np.testing.assert_allclose(run.method.centre.numpy(), 0.1 * np.concatenate(scores, 1).mean((0, 1)), atol=1e-6)


def test_wrong_settings_are_named(example):
    from passl.config import ConfigError

    with pytest.raises(ConfigError, match="sharpnes.*sharpness"):
        trainer(example, "Model.sharpnes=0.1")
    with pytest.raises(ValueError, match="set num_crops to at least 2"):
        one_crop = ("size_crops=[16]", "num_crops=[1]", "min_scale_crops=[0.4]", "max_scale_crops=[1.0]")
        trainer(example, *(f"DataLoader.Train.dataset.{key}" for key in one_crop))
