"""Starts the ranks of a job as gloo processes for a test, without the launcher (about 3 s instead of 8).

    def step(weight):                                   # module level, in the test file
        return {"sum": all_reduce(paddle.to_tensor(float(rank()) * weight)).numpy()}

    @pytest.mark.dist
    def test_step(tmp_path):
        for run in run_ranks(step, 2, tmp_path, weight=2.0):
            assert run.result["sum"] == 2.0

The function runs on every rank after `passl.distributed.initialize("cpu")`; what it returns (a dict of arrays and
numbers) comes back as `run.result`. Its keyword arguments must be JSON values. A list instead of a function is a
command: `run_ranks([sys.executable, "-m", "passl.cli.train", "-c", ...], 2, tmp_path)`.

A rank that fails, or a job that outlives `timeout`, ends the test with the output of every rank, and no process
survives. With `check=False` the runs are returned whatever happened, for tests of failures.
"""
from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Union

import numpy

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class RankRun:
    """One rank of a finished job: exit code (negative: killed by that signal), its output and its result."""

    rank: int
    returncode: int
    output: str
    seconds: float
    result: Dict[str, numpy.ndarray] = field(default_factory=dict)


def free_ports(count: int) -> List[int]:
    """TCP ports that nobody listens on at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def rank_environment(rank: int, ports: Sequence[int]) -> Dict[str, str]:
    """The variables that `paddle.distributed.launch` would set for one rank of a CPU job on this machine."""
    endpoints = [f"127.0.0.1:{port}" for port in ports]
    return {
        "PADDLE_DISTRI_BACKEND": "gloo",
        "PADDLE_TRAINERS_NUM": str(len(ports)),
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_LOCAL_RANK": str(rank),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
    }


def start_ranks(
    command: Sequence[str], count: int, folder: Path, environment: Optional[Mapping[str, str]] = None
) -> List[subprocess.Popen]:
    """Start the ranks and return at once; outputs go to `folder/output.<rank>`. End them with `stop_ranks`."""
    ports = free_ports(count)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PADDLE_", "FLAGS_", "SLURM"))}
    processes = []
    for rank in range(count):
        variables = {**inherited, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "GLOG_minloglevel": "2"}
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), inherited.get("PYTHONPATH")]))
        variables.update(rank_environment(rank, ports) if count > 1 else {})
        variables.update(environment or {})
        with open(folder / f"output.{rank}", "wb") as output:
            streams = {"stdout": output, "stderr": subprocess.STDOUT}
            processes.append(
                subprocess.Popen(list(command), cwd=folder, env=variables, start_new_session=True, **streams)
            )
        if rank == 0:
            time.sleep(0.3)  # rank 0 should listen first: a rank that comes too early waits 3 s before it tries again
    return processes


def stop_ranks(processes: Sequence[subprocess.Popen]) -> None:
    """Kill whatever is left of the ranks, their data workers included, and wait for them."""
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def run_ranks(
    target: Union[Callable, Sequence[str]],
    count: int,
    folder: Path,
    *,
    timeout: float = 300.0,
    check: bool = True,
    environment: Optional[Mapping[str, str]] = None,
    **arguments,
) -> List[RankRun]:
    """Run `target` on `count` ranks and return what became of them, in rank order.

    `target`: a module-level function of a test file (see the module's text) or a command as a list. `folder`: a
    scratch directory, usually `tmp_path`. `timeout`: seconds for the whole job. `environment`: extra variables for
    every rank. Other keywords go to the function. AssertionError when `check` is set and a rank fails; whatever
    `check`, the job is killed at the time limit and a rank killed so has returncode -9.
    """
    folder = Path(folder) / f"ranks{len(list(Path(folder).glob('ranks*')))}"
    folder.mkdir()
    if callable(target):
        (folder / "arguments.json").write_text(json.dumps(arguments))
        command = [sys.executable, "-m", "tests.distributed.ranks", target.__module__, target.__name__, str(folder)]
    else:
        command = list(target)
    begin = time.monotonic()
    ended: Dict[int, float] = {}
    processes = start_ranks(command, count, folder, environment)
    try:
        while len(ended) < count and time.monotonic() - begin < timeout:
            for rank, process in enumerate(processes):
                if rank not in ended and process.poll() is not None:
                    ended[rank] = time.monotonic() - begin
            failed = [rank for rank in ended if processes[rank].returncode != 0]
            if check and failed and time.monotonic() - begin > ended[failed[0]] + 2:
                break  # the others had time to say what they saw
            time.sleep(0.02)
    finally:
        stop_ranks(processes)
    runs = []
    for rank, process in enumerate(processes):
        result = {}
        if (folder / f"result.{rank}.npz").exists():
            with numpy.load(folder / f"result.{rank}.npz") as stored:
                result = dict(stored)
        output = (folder / f"output.{rank}").read_text(errors="replace")
        runs.append(RankRun(rank, process.returncode, output, ended.get(rank, time.monotonic() - begin), result))
    if check and any(run.returncode for run in runs):
        report = "".join(f"\n--- rank {run.rank}, exit code {run.returncode}\n{run.output}" for run in runs)
        raise AssertionError(f"{target} on {count} ranks did not end well within {timeout:g} s{report}")
    return runs


def _run_here(module: str, function: str, folder: Path) -> None:
    from passl.distributed import initialize, rank

    initialize("cpu")
    arguments = json.loads((folder / "arguments.json").read_text())
    result = getattr(importlib.import_module(module), function)(**arguments)
    numpy.savez(folder / f"result.{rank()}.npz", **(result or {}))


if __name__ == "__main__":
    _run_here(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
