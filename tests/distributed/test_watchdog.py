"""A lost rank ends the others with its name; slow ranks, failures and orderly ends are told apart from losses."""
from __future__ import annotations

import os
import signal
import time
from types import SimpleNamespace

import numpy
import paddle
import pytest

from passl import distributed
from passl.distributed import Launch
from passl.distributed.collectives import set_gate
from passl.distributed.watchdog import FAILED_RANK_EXIT_CODE, LOST_RANK_EXIT_CODE, Watchdog, watchdog
from tests.distributed.ranks import run_ranks


def play(scene, silence=30.0, waits=True):
    rank = distributed.rank()
    with watchdog(timeout=silence, collective_timeout=3.0 if scene == "absent" else 60.0) as watch:
        if not waits:  # as on NCCL: calls are only counted
            set_gate(watch.note)
        for step in range(3):
            if step == 1 and rank == distributed.world_size() - 1:
                if scene == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                if scene == "halted":
                    os.kill(os.getpid(), signal.SIGSTOP)
                if scene == "failed":
                    raise ValueError("cannot identify image file n01440764_18.JPEG")
                if scene == "slow":
                    time.sleep(7)  # longer than the timeout of that test: the thread keeps the rank alive
                if scene == "absent":
                    time.sleep(20)
            total = distributed.all_reduce(paddle.ones([4]))
    if rank == 0:
        time.sleep(0.3)  # the others are gone by now; that is no loss
    return {"total": total.numpy()}


def last_words(run):
    return [line for line in run.output.splitlines() if line.startswith(f"rank {run.rank} stops")]


@pytest.mark.dist
def test_killed_rank_is_named_at_once(tmp_path):
    runs = run_ranks(play, 3, tmp_path, check=False, scene="killed")
    assert runs[2].returncode == -signal.SIGKILL
    for run in runs[:2]:
        assert run.returncode == LOST_RANK_EXIT_CODE, run.output
        assert "rank 2 on " in last_words(run)[0] and "killed or crashed" in last_words(run)[0]
        assert run.seconds - runs[2].seconds < 15


@pytest.mark.dist
def test_halted_rank_is_named_after_the_timeout(tmp_path):
    runs = run_ranks(play, 2, tmp_path, check=False, timeout=60, scene="halted", silence=4.0)
    assert runs[0].returncode == LOST_RANK_EXIT_CODE, runs[0].output
    assert "rank 1 on " in last_words(runs[0])[0] and "silent for" in last_words(runs[0])[0]


@pytest.mark.dist
def test_failure_of_one_rank_ends_all_with_its_text(tmp_path):
    runs = run_ranks(play, 3, tmp_path, check=False, scene="failed")
    assert runs[2].returncode == 1 and "ValueError: cannot identify image file" in runs[2].output
    for run in runs[:2]:
        assert run.returncode == FAILED_RANK_EXIT_CODE, run.output
        assert "rank 2 failed with ValueError: cannot identify image file n01440764_18.JPEG" in last_words(run)[0]


@pytest.mark.dist
def test_slow_rank_and_orderly_end_disturb_nobody(tmp_path):
    for run in run_ranks(play, 2, tmp_path, scene="slow", silence=4.0):
        numpy.testing.assert_array_equal(run.result["total"], numpy.full(4, 2.0))
        assert not last_words(run)


@pytest.mark.dist
@pytest.mark.parametrize("waits", [True, False], ids=["ranks wait", "ranks are counted"])
def test_late_rank_is_named_when_the_collective_timeout_is_over(tmp_path, waits):
    runs = run_ranks(play, 2, tmp_path, check=False, scene="absent", waits=waits)
    assert [run.returncode for run in runs] == [LOST_RANK_EXIT_CODE] * 2
    for run in runs:
        assert "rank 1 did not come to all_reduce (collective 2 of rank 0) within 3 s" in last_words(run)[0]
        assert run.seconds < 16  # the late rank sleeps for 20 s


class Judge(Watchdog):
    """Rank 0 of three without connections; how far the ranks are is set by the test, `ended` holds what it says."""

    def __init__(self, collective_timeout):
        self.ended = []
        super().__init__(Launch(world_size=3), {}, 60.0, collective_timeout, leave=lambda text: self.ended.append(text))
        self._connections = {rank: SimpleNamespace(done=False, send=lambda **message: None) for rank in (1, 2)}

    def judge(self, *arrived):
        self._arrived = list(arrived)
        self._judge_progress()
        return self.ended


def test_only_a_rank_that_stays_behind_is_late(monkeypatch):
    judge, clock = Judge(collective_timeout=100), [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    for clock[0] in (0.0, 90.0, 500.0):
        assert not judge.judge(7, 7, 7)  # all of them busy with something long
    for clock[0] in range(510, 1510, 50):
        assert not judge.judge(clock[0], clock[0] - 1, clock[0] - 2)  # slower, but moving
    for clock[0] in (2000.0, 2100.0):
        assert not judge.judge(3000, 2999, 3000)
    clock[0] = 2101.0
    assert "rank 1 did not come to the first collective (collective 3000 of rank 0)" in judge.judge(3000, 2999, 3000)[0]


def test_a_beat_that_was_overtaken_by_an_arrival_takes_nothing_back():
    judge = Judge(collective_timeout=100)
    peer = SimpleNamespace(rank=1, done=False)
    judge._obey(peer, [{"kind": "arrived", "number": 5, "name": "barrier"}, {"kind": "beat", "number": 4, "name": "x"}])
    assert (judge._arrived[1], judge._names[1]) == (5, "barrier")
    judge._obey(peer, [{"kind": "beat", "number": 8, "name": "all_gather"}])
    assert (judge._arrived[1], judge._names[1]) == (8, "all_gather")


def test_a_rank_that_has_left_is_not_late(monkeypatch):
    judge, clock = Judge(collective_timeout=100), [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    judge._connections[2].done = True
    for clock[0] in (0.0, 300.0):
        assert not judge.judge(9, 9, 8)


def test_one_process_has_nothing_to_watch():
    with watchdog() as watch:
        assert watch is None
