"""The example of docs/add_a_method.md trains as it stands there and resumes exactly."""
import importlib.util
import re

import numpy as np
import pytest

from passl.registry import METHODS
from tests.engine.runs import CONFIG, trainer, write_images


@pytest.fixture
def example(repository, tmp_path):
    text = (repository / "docs" / "add_a_method.md").read_text()
    code, model = (re.search(rf"```{kind}\n(.*?)```", text, re.S).group(1) for kind in ("python", "yaml"))
    assert 30 <= len(code.splitlines()) <= 55
    path = tmp_path / "centred_targets.py"
    path.write_text(code)
    METHODS.names()  # the package's own methods are registered first
    spec = importlib.util.spec_from_file_location("centred_targets", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    settings = CONFIG.format(images=write_images(tmp_path / "images"), output=tmp_path / "output", batch=4)
    start, end = settings.index("Model:"), settings.index("Optimizer:")
    config = tmp_path / "run.yaml"
    config.write_text(settings[:start] + model + settings[end:])
    yield config
    METHODS._entries.pop("CentredTargets")


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


def test_wrong_settings_are_named(example):
    from passl.config import ConfigError

    with pytest.raises(ConfigError, match="sharpnes.*sharpness"):
        trainer(example, "Model.sharpnes=0.1")
    with pytest.raises(ValueError, match="set num_crops to at least 2"):
        one_crop = ("size_crops=[16]", "num_crops=[1]", "min_scale_crops=[0.4]", "max_scale_crops=[1.0]")
        trainer(example, *(f"DataLoader.Train.dataset.{key}" for key in one_crop))
