"""`passl-train` on two ranks, something going wrong on one: nobody hangs, all know who and why, nothing is lost."""
from __future__ import annotations

import json
import os
import signal
import sys
import time

import pytest

from passl.distributed.watchdog import FAILED_RANK_EXIT_CODE, LOST_RANK_EXIT_CODE
from passl.engine import checkpoint
from tests.distributed.ranks import run_ranks, start_ranks, stop_ranks
from tests.engine.runs import write_config, write_images

pytestmark = [pytest.mark.dist, pytest.mark.slow]

PATIENCE = 120  # seconds for a whole job; on a quiet machine it takes ten


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, write_images(tmp_path / "images", 24))


def arguments(config, *overrides):
    """Saves every step, resumes by itself; 3 steps an epoch on two ranks."""
    return ["-c", str(config), "-o", "Global.save_step_interval=1", "Global.checkpoint=auto",
            "DataLoader.Train.loader.num_workers=1", *overrides]


def train(*overrides):
    return [sys.executable, "-m", "passl.cli.train", *overrides]


def faulty(fault, rank, step, *overrides):
    return [sys.executable, "-m", "tests.engine.faulty_train", fault, str(rank), str(step), *overrides]


def saved_step(config):
    """Optimizer steps in the newest checkpoint, after verifying all of it; None before the first."""
    folder = config.parent / "output" / "SwAV"
    return checkpoint.load(folder / "latest").states["global_step"] if (folder / "latest").exists() else None


def logged_steps(config):
    lines = (config.parent / "output" / "SwAV" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines if "loss" in json.loads(line)]


class Job:
    """A running job of two ranks; leaves no process behind."""

    def __init__(self, command, folder):
        self.folder = folder
        self.processes = start_ranks(command, 2, folder)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        stop_ranks(self.processes)

    def output(self, rank):
        return (self.folder / f"output.{rank}").read_text(errors="replace")

    def everything(self):
        return "\n".join(f"--- rank {rank}\n{self.output(rank)}" for rank in (0, 1))

    def wait_for_steps(self, config, steps):
        """Until `metrics.jsonl` tells of that many steps."""
        metrics = config.parent / "output" / "SwAV" / "metrics.jsonl"
        deadline = time.monotonic() + PATIENCE
        while not metrics.exists() or len(metrics.read_text().splitlines()) < steps:
            assert time.monotonic() < deadline and self.processes[0].poll() is None, self.everything()
            time.sleep(0.02)

    def exit_codes(self, within=PATIENCE):
        """Exit codes of both ranks, and the seconds until the last had ended."""
        begin = time.monotonic()
        try:
            codes = [process.wait(max(0.1, within - (time.monotonic() - begin))) for process in self.processes]
        except Exception as error:
            raise AssertionError(self.everything()) from error
        return codes, time.monotonic() - begin


@pytest.mark.parametrize("victim", [0, 1])
def test_killed_rank_ends_the_other_and_the_same_line_resumes(config, tmp_path, victim):
    command = train(*arguments(config))
    with Job(command, tmp_path) as job:
        job.wait_for_steps(config, 4)
        os.kill(job.processes[victim].pid, signal.SIGKILL)
        codes, seconds = job.exit_codes()
        survivor = 1 - victim
        assert codes[survivor] == LOST_RANK_EXIT_CODE and codes[victim] == -signal.SIGKILL, job.everything()
        assert f"rank {survivor} stops: rank {victim} on " in job.output(survivor)
        assert "it was killed or crashed; start the job again" in job.output(survivor)
        assert seconds < 15
    done = saved_step(config)
    assert 3 <= done < 9
    again = run_ranks(command, 2, tmp_path, timeout=PATIENCE)
    assert f"step {done}" in again[0].output and "Finish load checkpoint" in again[0].output
    assert saved_step(config) == 9
    assert sorted(set(logged_steps(config))) == list(range(9))


def test_unreadable_image_stops_all_ranks_with_its_name(config, tmp_path):
    bad = tmp_path / "images" / "class_0" / "004.png"
    bad.write_bytes(b"no image at all")
    runs = run_ranks(train(*arguments(config)), 2, tmp_path, timeout=PATIENCE, check=False)
    finder = next(run for run in runs if "passl-train: error:" in run.output)
    other = runs[1 - finder.rank]
    assert f"error: {bad}: not an image" in finder.output and finder.returncode == 1
    assert other.returncode == FAILED_RANK_EXIT_CODE
    assert f"rank {other.rank} stops: rank {finder.rank} failed with DataError: {bad}: not an image" in other.output


def test_halted_rank_is_waited_for_and_a_signal_to_one_rank_ends_all_in_order(config, tmp_path):
    with Job(train(*arguments(config, "Global.epochs=1000")), tmp_path) as job:
        job.wait_for_steps(config, 2)
        os.kill(job.processes[1].pid, signal.SIGSTOP)
        time.sleep(3)
        before = len(logged_steps(config))
        os.kill(job.processes[1].pid, signal.SIGCONT)
        job.wait_for_steps(config, before + 2)
        os.kill(job.processes[1].pid, signal.SIGTERM)
        codes, _ = job.exit_codes()
        assert codes == [0, 0], job.everything()
        assert "stopped by another rank, saved after step" in job.output(0)
    steps = logged_steps(config)
    assert steps == list(range(len(steps))) and saved_step(config) == len(steps)


def test_nan_on_one_rank_stops_all_with_the_same_diagnosis(config, tmp_path):
    runs = run_ranks(faulty("nan", 1, 4, *arguments(config)), 2, tmp_path, timeout=PATIENCE, check=False)
    for run in runs:
        assert run.returncode == 1, run.output
        assert "error: the loss became NaN or infinite at step 4 (epoch 2); all weights are finite" in run.output
    assert saved_step(config) == 4 and (config.parent / "output" / "SwAV" / "nonfinite").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_full_disk_on_one_rank_stops_all_and_spares_the_last_checkpoint(config, tmp_path, rank):
    command = faulty("full_disk", rank, 4, *arguments(config, "Model.queue_length=2000"))  # a queue of 64 kB a rank
    runs = run_ranks(command, 2, tmp_path, timeout=PATIENCE, check=False)
    for run in runs:
        assert run.returncode == 1, run.output
        assert f"error: writing the checkpoint failed on rank {rank}\n" in run.output
        assert f"rank {rank}: " in run.output and "File too large" in run.output
    assert saved_step(config) == 4
    assert not list((config.parent / "output" / "SwAV" / "checkpoints").glob(".*")), "remains of the failed write"
