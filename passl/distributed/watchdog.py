"""Notices a lost rank and ends the others with a message that names it, since a blocked collective cannot be woken.

Every rank keeps one TCP connection to rank 0, served by a thread of its own, so a rank that is slow in its main thread
still shows signs of life (gloo and NCCL release the interpreter lock while they wait). A rank counts as lost when its
connection breaks, which a killed process causes at once, or when it is silent for `timeout` seconds, which a cut link
or a halted machine causes. A rank that leaves in order, or with an exception, says so first; nobody takes it for lost.

A rank that lives and does nothing is found by its progress. All ranks come to the same collectives in the same order,
so the number of the last one that a rank came to, which it sends with its signs of life, tells how far it is; rank 0
ends the job when a rank has stayed at one number for `collective_timeout` seconds while another was further.

Over gloo the same connections let a collective wait for late ranks before it begins; see `collectives.wait_for_ranks`.
"""
from __future__ import annotations

import json
import logging
import multiprocessing
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from contextlib import contextmanager
from typing import Callable, Dict, Iterator, List, Optional, Tuple

from passl.distributed import collectives
from passl.distributed.initialize import Launch, check_launch_environment

# sysexits.h EX_TEMPFAIL: the job may be started again; schedulers can tell it from an error that would only repeat (1).
LOST_RANK_EXIT_CODE = 75
FAILED_RANK_EXIT_CODE = 1

_FAREWELL_SECONDS = 3.0
_BACKEND_WORDS = ("gloo", "NCCL", "nccl")


def _leave(message: str, code: int = LOST_RANK_EXIT_CODE) -> None:
    """Say why, flush what was said, end the data workers and the process; never returns."""
    logger = logging.getLogger("passl")
    if logger.handlers:
        logger.error(message)
        for handler in logger.handlers:
            handler.flush()
    else:
        print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


class _Connection:
    """One peer's socket: JSON lines out, JSON lines in."""

    def __init__(self, peer: socket.socket, rank: int, host: str):
        self.socket, self.rank, self.host = peer, rank, host
        self.heard = time.monotonic()
        self.done = False
        self.early: List[dict] = []
        self._pending = b""
        self._lock = threading.Lock()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.settimeout(5.0)

    def send(self, **message) -> None:
        try:
            with self._lock:
                self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass  # the reading side sees the same break and judges it

    def receive(self) -> Optional[List[dict]]:
        """Messages that have arrived; None when the connection is broken or closed."""
        try:
            data = self.socket.recv(65536)
        except OSError:
            return None
        if not data:
            return None
        self.heard = time.monotonic()
        *lines, self._pending = (self._pending + data).split(b"\n")
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            return None  # whoever that is, it is no rank


class Watchdog:
    """Watches the ranks of a job from a thread; made by `watchdog()`.

    `connections` maps ranks to open connections: all others on rank 0, only 0 elsewhere. `leave` ends the process
    with a message and an exit code. Times in seconds.
    """

    def __init__(self, launch: Launch, connections: Dict[int, _Connection], timeout: float, collective_timeout: float,
                 leave: Callable[..., None] = _leave):
        self._launch, self._connections, self._leave = launch, connections, leave
        self._timeout, self._collective_timeout = timeout, collective_timeout
        self._interval = min(timeout / 5, collective_timeout / 5, 5.0)
        # Per rank, the number and the name of the last collective it came to; on rank 0 of all ranks, else of this one.
        self._arrived = [0] * launch.world_size
        self._names = ["the first collective"] * launch.world_size
        self._behind: Dict[int, Tuple[int, float]] = {}
        self._passed = 0
        self._progress = threading.Condition()
        self._stopping = threading.Event()
        self._selector = selectors.DefaultSelector()
        for connection in connections.values():
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        self._thread = threading.Thread(target=self._watch, name="passl-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _tell(self, **message) -> None:
        for connection in self._connections.values():
            if not connection.done:
                connection.send(**message)

    def _watch(self) -> None:
        for connection in self._connections.values():
            # A rank that is ahead may have sent more than its greeting before this thread began to read.
            self._obey(connection, connection.early)
        next_beat = last_turn = time.monotonic()
        while not self._stopping.is_set():
            now = time.monotonic()
            if now - last_turn > 2 * self._interval:
                # This process itself was halted: what the others sent in the meantime is still in the sockets.
                for connection in self._connections.values():
                    connection.heard += now - last_turn
                self._behind.clear()
            last_turn = now
            if now >= next_beat:
                own = self._launch.rank
                self._tell(kind="beat", number=self._arrived[own], name=self._names[own])
                next_beat = now + self._interval
            for key, _ in self._selector.select(timeout=max(0.0, next_beat - time.monotonic())):
                self._read(key.data)
            for connection in self._connections.values():
                silence = time.monotonic() - connection.heard
                if not connection.done and silence > self._timeout:
                    self._lost(connection, f"has been silent for {silence:.0f} s: its machine halted, or the link to "
                               "it is cut")
            if self._launch.rank == 0:
                self._judge_progress()

    def _judge_progress(self) -> None:
        """End the job when a rank has stayed behind another for `collective_timeout` without a step forward."""
        front = max(range(self._launch.world_size), key=lambda rank: self._arrived[rank])
        for rank, number in enumerate(self._arrived):
            is_done = rank != 0 and self._connections[rank].done
            if is_done or number == self._arrived[front]:
                self._behind.pop(rank, None)
            elif self._behind.get(rank, (None, 0.0))[0] != number:
                self._behind[rank] = number, time.monotonic()
            elif time.monotonic() - self._behind[rank][1] > self._collective_timeout:
                late = [str(other) for other in sorted(self._behind) if self._arrived[other] == number]
                reason = (f"rank {', '.join(late)} did not come to {self._names[front]} (collective "
                          f"{self._arrived[front]} of rank {front}) within {self._collective_timeout:.0f} s and "
                          f"stays after {self._names[rank]} (collective {number})")
                self._tell(kind="stop", reason=reason, code=LOST_RANK_EXIT_CODE)
                self._leave(f"rank {self._launch.rank} stops: {reason}")

    def _read(self, connection: _Connection) -> None:
        messages = connection.receive()
        if messages is None:
            self._selector.unregister(connection.socket)
            if not connection.done and not self._stopping.is_set():
                self._lost(connection, "closed its connection without a word: it was killed or crashed")
            connection.done = True
            return
        self._obey(connection, messages)

    def _obey(self, connection: _Connection, messages: List[dict]) -> None:
        for message in messages:
            kind = message["kind"]
            if kind == "arrived":
                self._note_arrival(connection.rank, message["number"], message["name"])
            elif kind == "beat":
                self._note_beat(connection.rank, message["number"], message["name"])
            elif kind == "pass":
                with self._progress:
                    self._passed = max(self._passed, message["number"])
                    self._progress.notify_all()
            elif kind == "done":
                connection.done = True
            elif kind == "stop":
                if self._launch.rank == 0:
                    connection.done = True
                    self._tell(**message)
                self._leave(f"rank {self._launch.rank} stops: {message['reason']}", message["code"])

    def _lost(self, connection: _Connection, how: str) -> None:
        reason = f"rank {connection.rank} on {connection.host} {how}"
        connection.done = True
        if self._launch.rank == 0:
            self._tell(kind="stop", reason=reason, code=LOST_RANK_EXIT_CODE)
        self._leave(f"rank {self._launch.rank} stops: {reason}; start the job again to resume from its last checkpoint")

    def _note_arrival(self, rank: int, number: int, name: str) -> None:
        with self._progress:
            self._arrived[rank], self._names[rank] = number, name
            if min(self._arrived) <= self._passed:
                return
            self._passed = min(self._arrived)
            self._progress.notify_all()
        self._tell(kind="pass", number=self._passed)

    def _note_beat(self, rank: int, number: int, name: str) -> None:
        with self._progress:
            # The main thread of that rank may have sent the news of an arrival past a beat that was being made.
            if self._launch.rank == 0 and number > self._arrived[rank]:
                self._arrived[rank], self._names[rank] = number, name

    def note(self, name: str) -> None:
        """Count a collective that this rank has come to; the next sign of life tells rank 0."""
        own = self._launch.rank
        self._arrived[own], self._names[own] = self._arrived[own] + 1, name

    def wait_for_all(self, name: str) -> None:
        """Count a collective and wait until every rank has come to it; rank 0 judges who is late."""
        number = self._arrived[self._launch.rank] + 1
        if self._launch.rank == 0:
            self._note_arrival(0, number, name)
        else:
            self.note(name)
            self._tell(kind="arrived", number=number, name=name)
        with self._progress:
            self._progress.wait_for(lambda: self._passed >= number)

    def close(self, error: Optional[BaseException] = None) -> None:
        """Leave the watch: in order, or, with an `error` of this rank, telling the others to stop because of it.

        A `JointFailure` is raised on all ranks, each of which reports it itself: that is leaving in order.
        """
        if isinstance(error, collectives.JointFailure):
            error = None
        code = FAILED_RANK_EXIT_CODE
        if error is not None and any(word in str(error) for word in _BACKEND_WORDS):
            code = LOST_RANK_EXIT_CODE
            # A broken collective is usually the first sign of another rank's death. Give the watching thread the time
            # to hear of it: it then ends this process with the name of the rank to blame.
            time.sleep(min(_FAREWELL_SECONDS, self._timeout))
        if error is None:
            self._tell(kind="done")
        else:
            self._stopping.set()  # before the others hear of it and hang up
            first_line = (str(error).strip().splitlines() or [""])[0]
            reason = f"rank {self._launch.rank} failed with {type(error).__name__}: {first_line}"
            self._tell(kind="stop", reason=reason, code=code)
        self._stopping.set()
        if self._launch.rank == 0 and error is None:
            self._await_farewells()
        self._thread.join(self._interval + 1)
        for connection in self._connections.values():
            connection.socket.close()

    def _await_farewells(self) -> None:
        # Rank 0 holds the only socket each other rank has; it closes last so that nobody takes its going for a crash.
        self._thread.join(self._interval + 1)
        deadline = time.monotonic() + _FAREWELL_SECONDS
        for connection in self._connections.values():
            while not connection.done and time.monotonic() < deadline:
                messages = connection.receive()
                if messages is None or any(message["kind"] == "done" for message in messages):
                    connection.done = True


def _meet(launch: Launch) -> Dict[int, _Connection]:
    """Connect every rank with rank 0, whose address travels through a collective, so that any free port will do."""
    host = launch.endpoints[0].rpartition(":")[0]
    if launch.rank == 0:
        server = socket.create_server(("", 0), backlog=launch.world_size)
        server.settimeout(60.0)
        token = secrets.token_hex(8)
        collectives.gather_objects([host, server.getsockname()[1], token])
        connections: Dict[int, _Connection] = {}
        while len(connections) < launch.world_size - 1:
            peer, address = server.accept()
            connection = _Connection(peer, -1, address[0])
            greeting, *connection.early = connection.receive() or [{}]
            if greeting.get("token") == token:  # a port scanner does not become a rank
                connection.rank, connection.host = greeting["rank"], greeting["host"]
                connections[connection.rank] = connection
            else:
                peer.close()
        server.close()
        return connections
    host, port, token = collectives.gather_objects(None)[0]
    connection = _Connection(socket.create_connection((host, port), timeout=60.0), 0, host)
    connection.send(token=token, rank=launch.rank, host=socket.gethostname())
    return {0: connection}


@contextmanager
def watchdog(timeout: float = 60.0, collective_timeout: float = 1800.0) -> Iterator[Optional[Watchdog]]:
    """Watch the other ranks while the block runs; nothing happens in a single process.

    A rank that is killed ends the others at once with exit code 75 and its name; one that is silent for `timeout`
    seconds (cut link, halted machine) likewise. Raise `timeout` where an extension holds the interpreter lock for
    long. An exception that leaves the block on one rank ends the others with its text and exit code 1, as it would
    happen again; a `JointFailure` leaves it on all ranks, which need no telling. A rank that lives but stays behind
    the others for `collective_timeout` seconds ends the job with exit code 75, on every backend. Rank 0 listens on any
    free port. Enter it on every rank, after `initialize`.
    """
    launch = check_launch_environment()
    if launch.world_size == 1:
        yield None
        return
    watch = Watchdog(launch, _meet(launch), timeout, collective_timeout)
    watch.start()
    collectives.set_gate(watch.wait_for_all if os.environ.get("PADDLE_DISTRI_BACKEND") == "gloo" else watch.note)
    try:
        yield watch
    except BaseException as error:
        collectives.set_gate(None)
        watch.close(error)
        raise
    collectives.set_gate(None)
    watch.close()
