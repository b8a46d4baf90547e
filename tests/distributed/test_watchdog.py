"""A lost rank ends the others with its name; slow ranks, failures and orderly ends are told apart from losses."""
from __future__ import annotations

import os
import signal
import time

import numpy
import paddle
import pytest

from passl import distributed
from passl.distributed.watchdog import FAILED_RANK_EXIT_CODE, LOST_RANK_EXIT_CODE, watchdog
from tests.distributed.ranks import run_ranks


def play(scene, silence=30.0):
    rank = distributed.rank()
    with watchdog(timeout=silence, collective_timeout=3.0 if scene == "absent" else 60.0):
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
    # The halted rank stays halted until the helper kills it at the time limit.
    runs = run_ranks(play, 2, tmp_path, check=False, timeout=40, scene="halted", silence=4.0)
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
def test_late_rank_is_named_when_the_collective_timeout_is_over(tmp_path):
    runs = run_ranks(play, 2, tmp_path, check=False, scene="absent")
    assert [run.returncode for run in runs] == [LOST_RANK_EXIT_CODE] * 2
    assert "rank 1 did not come to all_reduce" in last_words(runs[0])[0]
    assert "rank 1 did not come to all_reduce" in last_words(runs[1])[0]


def test_one_process_has_nothing_to_watch():
    with watchdog() as watch:
        assert watch is None
