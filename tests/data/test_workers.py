"""Worker processes under trouble: bad files, dead workers, dead parents, signals."""
from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from passl.data.batch import BatchLayout
from passl.data.workers import WorkerPool
from passl.errors import DataError
from tests.data.test_loader import multi_crop

pytestmark = pytest.mark.dist


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids, seconds=10.0):
    deadline = time.time() + seconds
    while any(alive(pid) for pid in pids):
        assert time.time() < deadline, "worker processes are still running"
        time.sleep(0.05)


@pytest.fixture
def tree(tmp_path):
    for number in range(12):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number:02}.jpg")
    return tmp_path


def worker_pids(loader):
    return [worker.pid for worker in loader._pool._workers]


def test_a_bad_file_in_a_worker_is_named_and_the_loader_goes_on(tree):
    good = (tree / "05.jpg").read_bytes()
    (tree / "05.jpg").write_bytes(good[:100])
    loader = multi_crop(tree, num_workers=2)
    with pytest.raises(DataError, match="05.jpg: damaged image"):
        list(loader.epoch(0))
    (tree / "05.jpg").write_bytes(good)
    assert len(list(loader.epoch(0))) == 4  # answers of the abandoned epoch do not leak into this one
    loader.close()


class Slow:
    """Samples of one pixel with the number of their epoch; sample 5 of epoch 0 takes its time."""

    def __init__(self):
        self.skipped, self.samples = {}, SimpleNamespace(name=str)

    def __getitem__(self, entry):
        if entry == (0, 5):
            time.sleep(0.3)
        return [np.full((1, 1, 3), entry[0], np.uint8)], entry[1]


def test_a_worker_behind_with_an_abandoned_run_does_not_write_into_the_next():
    dataset = Slow()
    pool = WorkerPool(dataset, BatchLayout(dataset[0, 0]), batch_size=4, num_workers=2, prefetch=1)
    # A short batch is shared out otherwise: its second row is the second worker's, in a whole batch the first one's.
    abandoned = pool.run(0, [np.arange(4), np.array([4, 5])])
    next(abandoned)
    for crops, *_ in pool.run(1, [np.arange(4)] * 2):
        time.sleep(0.4)
        assert crops.max() == crops.min() == 1
    pool.close()


def test_skipped_files_are_reported_by_workers(tree, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("passl"), "propagate", True)  # a run of another test may have ended it
    (tree / "05.jpg").write_bytes(b"")
    loader = multi_crop(tree, num_workers=2, image_errors="skip")
    assert len(list(loader.epoch(0))) == 4
    message, = set(caplog.messages)
    assert "05.jpg: the file is empty" in message
    assert [os.path.basename(path) for path in loader.skipped] == ["05.jpg"]
    loader.close()


def test_a_killed_worker_is_reported_not_waited_for(tree):
    loader = multi_crop(tree, num_workers=2)
    iterator = loader.epoch(0)
    next(iterator)
    os.kill(worker_pids(loader)[0], signal.SIGKILL)
    with pytest.raises(RuntimeError, match="passl-data-0 .* died with signal SIGKILL; .* out of memory"):
        for epoch in range(1, 4):
            list(loader.epoch(epoch))
    loader.close()


def test_leaving_an_epoch_early_and_closing(tree):
    loader = multi_crop(tree, num_workers=2)
    for _ in range(3):
        next(loader.epoch(0))
    assert len(list(loader.epoch(1))) == 4
    pids = worker_pids(loader)
    loader.close()
    loader.close()
    wait_until_gone(pids)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_workers_survive_signals_meant_for_the_parent(tree, how):
    loader = multi_crop(tree, num_workers=2)
    iterator = loader.epoch(0)
    next(iterator)
    for pid in worker_pids(loader):
        os.kill(pid, how)
    assert len(list(iterator)) == 3
    loader.close()


def test_pools_side_by_side_close_at_once_in_any_order(tree):
    """Workers of the second pool hold copies of the first one's pipes."""
    loaders = [multi_crop(tree, num_workers=2) for _ in range(2)]
    for loader in loaders:
        next(loader.epoch(0))
    began = time.monotonic()
    for loader in loaders:
        loader.close()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(tree, how):
    script = textwrap.dedent("""
        import signal, sys, time
        from tests.data.test_loader import multi_crop
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
        loader = multi_crop(sys.argv[1], num_workers=2)
        next(loader.epoch(0))
        print(*[worker.pid for worker in loader._pool._workers], flush=True)
        time.sleep(60)
    """)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    parent = subprocess.Popen([sys.executable, "-c", script, str(tree)], cwd=root, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(alive(pid) for pid in pids)
    parent.send_signal(how)
    parent.wait(timeout=20)
    parent.stdout.close()
    wait_until_gone(pids)
