"""The launch line of the README on two CPU ranks: it trains, and a SIGTERM to the launcher loses no step."""
from __future__ import annotations

import json
import signal
import time

import pytest

from passl.engine import checkpoint
from tests.distributed.launched import LAUNCH, end, launch_environment, rank_logs, start
from tests.distributed.ranks import REPOSITORY
from tests.engine.runs import write_config, write_images

pytestmark = pytest.mark.dist

PATIENCE = 120  # seconds; on a quiet machine it takes eight


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, write_images(tmp_path / "images", 24))


def said(folder):
    return "\n".join([(folder / "launcher").read_text(), *rank_logs(folder / "logs")])


def test_launch_line_trains_on_two_ranks(config, tmp_path):
    line = [*LAUNCH, "--nproc_per_node=2", f"--log_dir={tmp_path / 'logs'}", "passl-train", "-c", str(config)]
    line += ["-o", "Global.device=cpu", "Global.max_train_step=2"]
    launched = start(line, tmp_path / "launcher", launch_environment(tmp_path))
    try:
        assert launched.wait(PATIENCE) == 0, said(tmp_path)
    finally:
        end([launched])
    first, _ = rank_logs(tmp_path / "logs")
    assert "24 images, 3 iterations an epoch, global batch 8 (2 x 4), device cpu" in first
    states = checkpoint.load(tmp_path / "output" / "SwAV" / "latest").states
    assert (states["global_step"], states["consumed"], states["world_size"]) == (2, 16, 2)


def test_sigterm_to_the_launcher_lets_all_ranks_finish_their_step_and_save(config, tmp_path):
    # The second step takes 4 s on rank 1, so that all six signals the launcher sends arrive in the middle of it.
    script = REPOSITORY / "tests" / "engine" / "faulty_train.py"
    line = [*LAUNCH, "--nproc_per_node=2", f"--log_dir={tmp_path / 'logs'}", str(script), "slow", "1", "1"]
    line += ["-c", str(config), "-o", "Global.device=cpu", "Global.epochs=1000"]
    metrics = tmp_path / "output" / "SwAV" / "metrics.jsonl"
    launched = start(line, tmp_path / "launcher", launch_environment(tmp_path))
    try:
        deadline = time.monotonic() + PATIENCE
        while not metrics.exists() or len(metrics.read_text().splitlines()) < 1:
            assert time.monotonic() < deadline and launched.poll() is None, said(tmp_path)
            time.sleep(0.05)
        launched.send_signal(signal.SIGTERM)
        launched.wait(PATIENCE)
    finally:
        end([launched])
    assert "saved after step 2; resume with" in rank_logs(tmp_path / "logs")[0], said(tmp_path)
    assert len([line for line in metrics.read_text().splitlines() if "loss" in json.loads(line)]) == 2
    assert checkpoint.load(tmp_path / "output" / "SwAV" / "latest").states["global_step"] == 2
