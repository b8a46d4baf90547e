"""Ranks as threads: run a function once per rank with collectives that really combine what the ranks pass."""
import threading

import numpy as np
import paddle


class SimulatedCollectives:
    """What `passl.distributed` offers, for one of several threads."""

    def __init__(self, rank, world_size, barrier, slots):
        self._rank, self._world_size, self._barrier, self._slots = rank, world_size, barrier, slots
        self.calls = []

    def rank(self):
        return self._rank

    def world_size(self):
        return self._world_size

    def _exchange(self, name, tensor):
        self.calls.append((name, tensor.size * tensor.element_size()))
        self._slots[self._rank] = tensor.numpy()
        self._barrier.wait()
        values = [np.array(value) for value in self._slots]
        self._barrier.wait()
        return values

    def all_reduce(self, tensor, op="sum"):
        values = self._exchange("all_reduce", tensor)
        return paddle.to_tensor({"sum": np.sum, "max": np.max, "min": np.min}[op](values, axis=0))

    def all_gather(self, tensor):
        return paddle.to_tensor(np.stack(self._exchange("all_gather", tensor)))

    def broadcast(self, tensor, source=0):
        return paddle.to_tensor(self._exchange("broadcast", tensor)[source])


def run_ranks(world_size, function):
    """[function(rank, collectives) for every rank], at the same time; raises what the first failing rank raised."""
    barrier, slots = threading.Barrier(world_size, timeout=30), [None] * world_size
    results, errors = [None] * world_size, [None] * world_size

    def run(rank):
        try:
            results[rank] = function(rank, SimulatedCollectives(rank, world_size, barrier, slots))
        except Exception as error:  # handed to the caller below
            errors[rank] = error
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    real = [error for error in errors if error is not None and not isinstance(error, threading.BrokenBarrierError)]
    if real or any(errors):
        raise (real or [error for error in errors if error])[0]
    return results
