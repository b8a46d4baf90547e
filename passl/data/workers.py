"""Worker processes that fill batches in shared memory.

Why not paddle.io.DataLoader: its workers turn every array into a framework tensor, pass batches through named files
in /dev/shm (too small in containers, left behind by a killed run), and report a failed sample without its file. Here
workers are forked before the first batch and write pixels straight into anonymous shared memory, which the kernel
frees with the last process; a batch is split over all of them, so that the first one arrives early and few batches
are in memory.

A worker ignores SIGINT and SIGTERM, which terminals and job schedulers send to every process of a job: the parent
decides what they mean, and may want another batch to finish its step. A worker ends when the parent does, however
that happens.
"""
from __future__ import annotations

import collections
import ctypes
import gc
import mmap
import multiprocessing
import os
import signal
import traceback
import warnings
from multiprocessing import connection, util
from typing import Any, Deque, Dict, Iterable, Iterator, List

import numpy as np

from passl.data.batch import BatchLayout
from passl.errors import DataError

_PARENT_CHECK_SECONDS = 5.0
_END_SECONDS = 10.0


def prepare_process() -> None:
    """Settings of a process that does nothing but decode and augment images: one thread, and memory that is kept.

    glibc returns the memory of every image to the kernel and faults it in again page by page for the next one, a
    tenth of the time of a sample; with these thresholds it is reused. Other C libraries have no such call.
    """
    import cv2

    cv2.setNumThreads(0)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    mallopt(_M_TRIM_THRESHOLD, 256 << 20)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


class WorkerPool:
    """`num_workers` forked processes; `run` turns a sequence of indices into filled batches, in order.

    prefetch: batches being filled ahead of the one in use. `close()` ends the workers; safe to call twice.
    """

    def __init__(self, dataset, layout: BatchLayout, batch_size: int, num_workers: int, prefetch: int):
        self._dataset, self._layout = dataset, layout
        self._slots = [layout.arrays(mmap.mmap(-1, layout.size(batch_size)), batch_size) for _ in range(prefetch + 1)]
        context = multiprocessing.get_context("fork")
        pipes = [context.Pipe() for _ in range(num_workers)]
        self._pipes = [parent for parent, _ in pipes]
        self._run = 0
        self._unanswered = 0  # pieces the workers have, of this run and of an abandoned one
        self._workers = []
        parent_pid = os.getpid()
        # A signal between fork and the worker's own settings must not run the parent's handlers in the child.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            for number, (_, own) in enumerate(pipes):
                others = [end for pair in pipes for end in pair if end is not own]
                worker = context.Process(target=self._work, args=(own, others, parent_pid), daemon=True,
                                         name=f"passl-data-{number}")
                with warnings.catch_warnings():
                    # Python 3.12+ warns of fork with threads; the child uses none of the parent's threads or locks.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    worker.start()
                self._workers.append(worker)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for _, own in pipes:
            own.close()
        # At exit multiprocessing ends its children by SIGTERM, which ours ignore, and waits for them.
        self.close = util.Finalize(self, _end_workers, (self._pipes, self._workers), exitpriority=10)

    # ---- in the worker

    def _work(self, pipe, others, parent_pid: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
        gc.freeze()  # never collect (and so destroy) what belongs to the parent
        for end in others:
            end.close()
        prepare_process()
        self._dataset.skipped.clear()
        try:
            while True:
                while not pipe.poll(_PARENT_CHECK_SECONDS):
                    if os.getppid() != parent_pid:
                        return
                task = pipe.recv()
                if task is None:
                    return
                run, slot, *piece = task
                pipe.send((run, slot, self._fill(slot, *piece), dict(self._dataset.skipped)))
                self._dataset.skipped.clear()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return

    def _fill(self, slot: int, first: int, epoch: int, indices: np.ndarray) -> str:
        """Make samples into the rows of a slot from `first` on; returns an error text, empty when all went well."""
        for row, index in enumerate(indices.tolist(), first):
            name = self._dataset.samples.name(index)
            try:
                self._layout.store(self._slots[slot], row, self._dataset[epoch, index], name)
            except DataError as error:
                return str(error)
            except Exception:
                return f"{name}: unexpected error in a data worker\n{traceback.format_exc()}"
        return ""

    # ---- in the parent

    def run(self, epoch: int, batches: Iterable[np.ndarray]) -> Iterator[List[np.ndarray]]:
        """Yield the arrays of each batch of samples, in order; they are valid until the next one is asked for.

        epoch: of the samples' random draws. batches: indices of each, int64 [B], taken as slots become free.
        Raises DataError (a sample failed, with its file) or RuntimeError (a worker died).
        """
        self._run += 1
        while self._unanswered:  # a worker behind with an abandoned run would write into batches of this one
            self._receive({})
        batches = iter(batches)
        free = collections.deque(range(len(self._slots)))
        queued: Deque[int] = collections.deque()  # slots in the order of their batches
        missing: Dict[int, int] = {}  # slot -> pieces still being filled
        while True:
            while free:
                indices = next(batches, None)
                if indices is None:
                    break
                slot = free.popleft()
                missing[slot] = self._send(slot, epoch, indices)
                queued.append(slot)
            if not queued:
                return
            slot = queued.popleft()
            while missing[slot]:
                self._receive(missing)
            yield self._slots[slot]
            free.append(slot)

    def _send(self, slot: int, epoch: int, indices: np.ndarray) -> int:
        piece = -(-len(indices) // len(self._pipes))
        starts = range(0, len(indices), piece)
        for pipe, start in zip(self._pipes, starts):
            try:
                pipe.send((self._run, slot, start, epoch, indices[start:start + piece]))
            except OSError:
                self._report_death()
            self._unanswered += 1
        return len(starts)

    def _receive(self, missing: Dict[int, int]) -> None:
        """Wait for at least one answer of the current run."""
        ready: List[Any] = connection.wait(self._pipes + [worker.sentinel for worker in self._workers])
        answers = [item for item in ready if not isinstance(item, int)]
        if not answers:
            self._report_death()
        for pipe in answers:
            try:
                run, slot, error, skipped = pipe.recv()
            except (EOFError, ConnectionResetError):
                self._report_death()
            self._unanswered -= 1
            self._dataset.skipped.update(skipped)
            if run == self._run:  # answers to an abandoned epoch are dropped
                if error:
                    raise DataError(error)
                missing[slot] -= 1

    def _report_death(self) -> None:
        for worker in self._workers:
            worker.join(timeout=1.0)
            if worker.exitcode is not None:
                code = worker.exitcode
                reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                hint = "; SIGKILL usually means the machine ran out of memory" if code == -signal.SIGKILL else ""
                raise RuntimeError(f"data worker {worker.name} (process {worker.pid}) died with {reason}{hint}; lower "
                                   "loader.num_workers, or use 0 to load in the main process and see the fault")
        raise RuntimeError("a data worker closed its connection")


def _end_workers(pipes: List, workers: List) -> None:
    """Tell the workers to end and wait; one that is stuck in an image is killed.

    Closing the pipes alone would not do: workers of a later pool have inherited this process's ends of them.
    """
    for pipe in pipes:
        try:
            pipe.send(None)
        except OSError:  # this worker is gone already
            pass
        pipe.close()
    for worker in workers:
        worker.join(timeout=_END_SECONDS)
        if worker.is_alive():
            worker.kill()
            worker.join()
