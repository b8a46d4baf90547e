"""The two-node launch line of `passl-train`, with network namespaces as nodes: a cut ends both, the run resumes."""
from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import List

import pytest

from passl.distributed.watchdog import LOST_RANK_EXIT_CODE
from passl.engine import checkpoint
from tests.distributed.launched import LAUNCH, end, launch_environment, rank_logs, start
from tests.engine.runs import write_config, write_images

pytestmark = [pytest.mark.dist, pytest.mark.slow]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class TwoNodes:
    """Two network namespaces joined by a cable; each maps the host name to its own address, as two machines would."""

    def __init__(self):
        self.names = [f"passl{os.getpid()}{side}" for side in "ab"]
        self.addresses = ["10.213.77.1", "10.213.77.2"]
        self.links = [f"pv{os.getpid()}{side}" for side in "ab"]

    def build(self) -> None:
        for name in self.names:
            ip("netns", "add", name)
        ip("link", "add", self.links[0], "type", "veth", "peer", "name", self.links[1])
        for name, address, link in zip(self.names, self.addresses, self.links):
            ip("link", "set", link, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
            # `ip netns exec` lays this file over /etc/hosts. The launcher takes a node's address from its host name.
            hosts = Path("/etc/netns") / name / "hosts"
            hosts.parent.mkdir(parents=True)
            hosts.write_text(f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n")

    def remove(self) -> None:
        for name in self.names:
            left = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
            for process in left.stdout.split():
                os.kill(int(process), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)
        with contextlib.suppress(OSError):  # other namespaces may have files there
            Path("/etc/netns").rmdir()

    def cable(self, state: str) -> None:
        ip("-n", self.names[0], "link", "set", self.links[0], state)

    def launch(self, folder: Path, port: int, arguments: List[str]) -> List[subprocess.Popen]:
        """The same launch line on both nodes; outputs in `folder/<node>/workerlog.0`."""
        folder.mkdir()
        environment = launch_environment(folder)
        launched = []
        for node, name in enumerate(self.names):
            command = ["ip", "netns", "exec", name, *LAUNCH, "--nnodes=2", f"--master={self.addresses[0]}:{port}"]
            command += ["--nproc_per_node=1", f"--rank={node}", f"--log_dir={folder / str(node)}", "passl-train"]
            launched.append(start([*command, *arguments], folder / f"launcher.{node}", environment))
        return launched


@pytest.fixture
def nodes():
    two = TwoNodes()
    try:
        two.build()
    except (OSError, subprocess.CalledProcessError) as error:
        two.remove()
        reason = getattr(error, "stderr", "") or error
        pytest.skip(f"no network namespaces on this machine ({str(reason).strip()}); run as root to test two nodes")
    yield two
    two.remove()


def worker_logs(folder: Path) -> List[str]:
    """What the rank of each node printed, in node order; empty for a node that has not begun."""
    return ["".join(rank_logs(folder / str(node))) for node in (0, 1)]


def test_cut_link_ends_both_nodes_and_the_run_resumes(nodes, tmp_path):
    config = write_config(tmp_path, write_images(tmp_path / "images", 24))
    run = tmp_path / "output" / "SwAV"
    arguments = ["-c", str(config), "-o", "Global.epochs=1000", "Global.save_step_interval=1", "Global.checkpoint=auto"]
    launched = nodes.launch(tmp_path / "cut", 29710, [*arguments, "Global.lost_rank_timeout=4"])
    try:
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text().splitlines()) < 5:
            assert time.monotonic() < deadline, "\n".join(worker_logs(tmp_path / "cut"))
            time.sleep(0.2)
        nodes.cable("down")
        begin = time.monotonic()
        codes = [process.wait(timeout=60) for process in launched]
        assert time.monotonic() - begin < 45
        logs = worker_logs(tmp_path / "cut")
        assert f"rank 0 stops: rank 1 on {socket.gethostname()} has been silent" in logs[0], logs[0]
        assert f"rank 1 stops: rank 0 on {nodes.addresses[0]} has been silent" in logs[1], logs[1]
        assert codes == [LOST_RANK_EXIT_CODE] * 2
    finally:
        end(launched)
    done = checkpoint.load(run / "latest").states["global_step"]
    assert done >= 4

    nodes.cable("up")
    launched = nodes.launch(tmp_path / "again", 29720, [*arguments, f"Global.max_train_step={done + 4}"])
    try:
        codes = [process.wait(timeout=120) for process in launched]
        logs = worker_logs(tmp_path / "again")
        assert codes == [0, 0], "\n".join(logs)
        assert "Finish load checkpoint" in logs[0] and f", step {done}\n" in logs[0]
    finally:
        end(launched)
    assert checkpoint.load(run / "latest").states["global_step"] == done + 4
