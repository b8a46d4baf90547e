"""Starts the ranks of a job as gloo processes for a test, without the launcher.

    def step(weight):                                   # module level, in the test file
        return {"sum": all_reduce(paddle.to_tensor(float(rank()) * weight)).numpy()}

    @pytest.mark.dist
    def test_step(tmp_path):
        for run in run_ranks(step, 2, tmp_path, weight=2.0):
            assert run.result["sum"] == 2.0

The function runs on every rank after `passl.distributed.initialize("cpu")`; what it returns (a dict of arrays and
numbers) comes back as `run.result`. Its keyword arguments are pickled. Functions run in forks of a server that has
imported Paddle, which saves three seconds of a core for each rank. A list instead of a function is a command, run in
processes of its own: `run_ranks([sys.executable, "-m", "passl.cli.train", "-c", ...], 2, tmp_path)`.

A rank that fails, or a job that outlives `timeout`, ends the test with the output of every rank, and no process
survives. With `check=False` the runs are returned whatever happened, for tests of failures.
"""
from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Union

import numpy
import psutil

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


def job_environments(count: int, extra: Optional[Mapping[str, str]] = None) -> List[Dict[str, str]]:
    """All variables of each rank of a new job: one thread, nothing of another launcher's, then `extra`."""
    ports = free_ports(count)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PADDLE_", "FLAGS_", "SLURM"))}
    inherited.update({"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "GLOG_minloglevel": "2"})
    inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), inherited.get("PYTHONPATH")]))
    ranks = [rank_environment(rank, ports) if count > 1 else {} for rank in range(count)]
    return [{**inherited, **variables, **(extra or {})} for variables in ranks]


class ForkedRank:
    """One rank as a fork of the server that has imported Paddle, with the part of Popen's face that is used here."""

    _context = multiprocessing.get_context("forkserver")
    _context.set_forkserver_preload(["paddle", "passl.engine.trainer"])

    def __init__(self, function: Callable, folder: Path, rank: int, variables: Mapping[str, str], arguments: dict):
        self._process = self._context.Process(target=_run_forked, args=(function, folder, rank, variables, arguments))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> Optional[int]:
        return self._process.exitcode

    poll = returncode.fget

    def wait(self) -> None:
        self._process.kill()  # it may have been stopped before it had a group of its own
        self._process.join()


def _run_forked(function: Callable, folder: Path, rank: int, variables: Mapping[str, str], arguments: dict) -> None:
    os.setsid()
    with open(folder / f"output.{rank}", "wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    from passl.distributed import initialize

    initialize("cpu")
    numpy.savez(folder / f"result.{rank}.npz", **(function(**arguments) or {}))
    atexit._run_exitfuncs()  # forks end without them, a rank of its own would not


def start_ranks(
    target: Union[Callable, Sequence[str]],
    count: int,
    folder: Path,
    environment: Optional[Mapping[str, str]] = None,
    **arguments,
) -> List[Union[subprocess.Popen, ForkedRank]]:
    """Start the ranks and return at once; outputs go to `folder/output.<rank>`. End them with `stop_ranks`."""
    processes: List[Union[subprocess.Popen, ForkedRank]] = []
    for rank, variables in enumerate(job_environments(count, environment)):
        if callable(target):
            processes.append(ForkedRank(target, folder, rank, variables, arguments))
        else:
            with open(folder / f"output.{rank}", "wb") as output:
                streams = {"stdout": output, "stderr": subprocess.STDOUT}
                processes.append(
                    subprocess.Popen(list(target), cwd=folder, env=variables, start_new_session=True, **streams)
                )
        if rank == 0:
            time.sleep(0.3)  # rank 0 should listen first: a rank that comes too early waits 3 s before it tries again
    return processes


def _is_halted(process) -> bool:
    try:
        return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False


def stop_ranks(processes: Sequence[Union[subprocess.Popen, ForkedRank]]) -> None:
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
    `check`, the job is killed at the time limit, or when only halted ranks are left, and a rank killed so has
    returncode -9.
    """
    folder = Path(folder) / f"ranks{len(list(Path(folder).glob('ranks*')))}"
    folder.mkdir()
    begin = time.monotonic()
    ended: Dict[int, float] = {}
    processes = start_ranks(target, count, folder, environment, **arguments)
    try:
        while len(ended) < count and time.monotonic() - begin < timeout:
            for rank, process in enumerate(processes):
                if rank not in ended and process.poll() is not None:
                    ended[rank] = time.monotonic() - begin
            failed = [rank for rank in ended if processes[rank].returncode != 0]
            if check and failed and time.monotonic() - begin > ended[failed[0]] + 2:
                break  # the others had time to say what they saw
            if ended and all(_is_halted(process) for rank, process in enumerate(processes) if rank not in ended):
                break  # nobody is left to wake them
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
