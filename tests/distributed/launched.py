"""`passl-train` under `python -m paddle.distributed.launch`, as a user starts it; for tests of launch lines."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Sequence

from tests.distributed.ranks import REPOSITORY

# What pip writes for the entry point of pyproject.toml; the launcher looks for the command on PATH.
COMMAND = f"#!{sys.executable}\nimport sys\n\nfrom passl.cli.train import main\n\nsys.exit(main())\n"
LAUNCH = [sys.executable, "-m", "paddle.distributed.launch"]


def launch_environment(folder: Path) -> Dict[str, str]:
    """Variables of a shell in which `passl-train` is installed (in `folder`) and gloo is chosen."""
    (folder / "passl-train").write_text(COMMAND)
    (folder / "passl-train").chmod(0o755)
    ours = ("PADDLE_", "FLAGS_", "SLURM")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environment.update(PADDLE_DISTRI_BACKEND="gloo", OMP_NUM_THREADS="1", PYTHONPATH=str(REPOSITORY))
    environment["PATH"] = f"{folder}{os.pathsep}{environment['PATH']}"
    return environment


def start(command: Sequence[str], output: Path, environment: Dict[str, str]) -> subprocess.Popen:
    """Start a launcher in a process group of its own; `end` leaves nothing of it."""
    with open(output, "wb") as stream:
        return subprocess.Popen(list(command), env=environment, cwd=output.parent, stdout=stream,
                                stderr=subprocess.STDOUT, start_new_session=True)


def end(launched: Sequence[subprocess.Popen]) -> None:
    """Kill the launchers and their ranks, which the launcher puts into process groups of their own."""
    import psutil

    for process in launched:
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        for member in family:
            try:
                member.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                pass
        process.wait()


def rank_logs(log_dir: Path) -> List[str]:
    """What each rank printed, in rank order; empty before the launcher has begun."""
    return [path.read_text(errors="replace") for path in sorted(log_dir.glob("workerlog.*"))]
