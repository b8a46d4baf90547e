"""One folder of images and one uninterrupted run for all tests of the engine in a process."""
import signal

import pytest

from tests.engine.runs import state_of, trainer, write_config, write_images


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def config(tmp_path, images):
    return write_config(tmp_path, images)


@pytest.fixture
def signals_restored():
    """The handlers of SIGTERM and SIGINT as they were, after the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def straight_run(tmp_path_factory, images):
    """(state after 3 epochs without interruption, losses of every step)."""
    import json

    run = trainer(write_config(tmp_path_factory.mktemp("straight"), images))
    run.run()
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return state_of(run), [line["loss"] for line in lines if "loss" in line]
