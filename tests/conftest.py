"""Settings of every test: one thread per worker process, no network, real images only where they are offered."""
import atexit
import logging
import os
import random
import re
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from passl.engine import environment

# Before anything imports Paddle. Two pytest workers with a thread each fill two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
environment.prepare()
os.environ["PASSL_HOME"] = tempfile.mkdtemp(prefix="passl-home-")  # what engines remember stays out of the user's own
atexit.register(shutil.rmtree, os.environ["PASSL_HOME"], ignore_errors=True)

REPOSITORY = Path(__file__).resolve().parents[1]

pytest_plugins = ["tests.trained_runs"]


def pytest_collection_modifyitems(items):
    """Mark as `numeric` the tests of every file that compares within a bound: those of `make test-machines`."""
    compares = {path: re.search(r"allclose|approx\(", path.read_text(encoding="utf-8"))
                for path in {item.path for item in items}}
    for item in items:
        if compares[item.path]:
            item.add_marker("numeric")


@pytest.fixture(scope="session")
def real_images() -> Path:
    """Folder with the unpacked trees `cifar10/` and `imagenet-sample/`, named by PASSL_TEST_DATA."""
    folder = os.environ.get("PASSL_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real images wanted: set PASSL_TEST_DATA to a folder holding cifar10/ and imagenet-sample/")
    return Path(folder)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(autouse=True)
def fresh_logger():
    """Every test starts with the logger that an import of passl gives; runs before it set handlers and levels."""
    for logger in map(logging.getLogger, ("passl", "passl.inference")):
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(logging.NOTSET)  # not by assignment: logging remembers what a level answered
        logger.propagate = True


@pytest.fixture(autouse=True)
def same_random_numbers():
    """A test that draws without a seed draws the same whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    if "paddle" in sys.modules:  # else the test's own import starts it
        sys.modules["paddle"].seed(0)
