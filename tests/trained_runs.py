"""Fixtures: one pretraining run and one probe on it, as folders, and a few pictures; made once a session."""
import numpy as np
import pytest

from tests.engine import runs
from tests.methods import classifiers


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    return classifiers.write_squares(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory, pictures):
    """Folder of a finished pretraining run."""
    folder = tmp_path_factory.mktemp("pretrained")
    run = runs.trainer(runs.write_config(folder, pictures / "train"), "Global.epochs=1")
    run.config.save(run.folder / "config.yaml")
    run.run()
    return run.folder


@pytest.fixture(scope="session")
def trained_probe(tmp_path_factory, pictures, pretrained):
    """Folder of a finished linear probe on that run's trunk."""
    path = classifiers.write_config(tmp_path_factory.mktemp("probe"), pictures, epochs=5)
    run = classifiers.trainer(path, f"Global.pretrained_model={pretrained}/latest", "Optimizer.lr.learning_rate=0.05")
    run.config.save(run.folder / "config.yaml")
    run.run()
    return run.folder


@pytest.fixture(scope="session")
def picture():
    return np.random.RandomState(0).randint(0, 256, (14, 17, 3)).astype(np.uint8)
