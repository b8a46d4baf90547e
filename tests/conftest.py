"""Settings of every test: one thread per worker process, no network, real images only where they are offered."""
import os
from pathlib import Path

import pytest

from passl.engine import environment

# Before anything imports Paddle. Two pytest workers with a thread each fill two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
environment.prepare()

REPOSITORY = Path(__file__).resolve().parents[1]

pytest_plugins = ["tests.trained_runs"]


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
