"""A real process, killed at arbitrary moments: the run goes on from the last whole checkpoint, to the same end."""
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.engine.runs import assert_same_state, state_of, trainer, write_config

pytestmark = [pytest.mark.dist, pytest.mark.slow]


def command(config, *overrides):
    return [sys.executable, "-m", "passl.cli.train", "-c", str(config), "-o", "Global.save_step_interval=1", *overrides]


def start(config, repository, *overrides):
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(config, *overrides), env=environment, cwd=config.parent, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def resume_arguments(folder):
    return [f"Global.checkpoint={folder / 'latest'}"] if (folder / "latest").exists() else []


def wait_for_new_step(process, folder, known, timeout=60):
    """Until the link `latest` moves (or the process ends)."""
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline:
        if (folder / "latest").is_symlink() and os.readlink(folder / "latest") != known:
            return
        time.sleep(0.005)


def test_killed_again_and_again_the_run_ends_as_if_it_never_was(tmp_path, images, straight_run, repository):
    config = write_config(tmp_path, images)
    folder = tmp_path / "output" / "SwAV"
    generator = random.Random(0)
    for _ in range(5):
        known = os.readlink(folder / "latest") if (folder / "latest").is_symlink() else None
        process = start(config, repository, *resume_arguments(folder))
        wait_for_new_step(process, folder, known)
        time.sleep(generator.uniform(0, 0.15))  # somewhere in a step or in the writing of a checkpoint
        process.send_signal(signal.SIGKILL)
        process.communicate()
    last = start(config, repository, *resume_arguments(folder))
    output, _ = last.communicate(timeout=120)
    assert last.returncode == 0, output
    finished = trainer(config, f"Global.checkpoint={folder / 'latest'}")
    assert_same_state(straight_run[0], state_of(finished))
    assert not list((folder / "checkpoints").glob(".*")), "remains of an interrupted write"


def test_sigterm_ends_the_command_with_success_and_the_resume_line(tmp_path, images, repository):
    config = write_config(tmp_path, images)
    folder = tmp_path / "output" / "SwAV"
    process = start(config, repository, "Global.epochs=1000")
    wait_for_new_step(process, folder, None)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert f"resume with passl-train -c {folder}/config.yaml -o Global.checkpoint={folder / 'latest'}" in output
