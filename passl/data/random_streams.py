"""Random numbers as a pure function of (seed, epoch, sample index).

Nothing here keeps state between samples: the process, the worker, the rank and the order in which samples are asked for
cannot change a draw. Keys are BLAKE2 hashes, permutations sort SplitMix64 hashes (Steele, Lea and Flood, 2014), and the
draws of one sample are those of `random.Random(key).random()`, whose sequence the standard library promises to keep; so
no library's version matters. Python's generator and not NumPy's, because a stream is opened after passes over pixels
that have pushed everything out of the caches, where a NumPy call costs tens of microseconds.
"""
from __future__ import annotations

import hashlib
import random
from typing import Callable

import numpy as np


def stream_key(*parts: int) -> int:
    """64-bit key of the stream of `parts`, any integers in this order."""
    text = repr([int(part) for part in parts])  # int: NumPy's integers print as something else
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniform_draws(key: int) -> Callable[[], float]:
    """The draws of stream `key`: a function that returns the next number, uniform in [0, 1)."""
    return random.Random(key).random


def permutation(size: int, *parts: int) -> np.ndarray:
    """Order of `size` items, int64, drawn from the stream of `parts`."""
    return np.argsort(_hashes(stream_key(*parts), size), kind="stable").astype(np.int64)


def _hashes(key: int, count: int) -> np.ndarray:
    """uint64 array of the first `count` numbers of SplitMix64 with seed `key`."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


class Stream:
    """Draws for one sample, for transforms; `random()` yields the sequence of `uniform_draws`."""

    def __init__(self, *parts: int):
        self.random = uniform_draws(stream_key(*parts))

    def uniform(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self.random()

    def integer(self, count: int) -> int:
        """Uniform in 0 .. count-1."""
        return min(int(self.random() * count), count - 1)

    def order(self, count: int) -> list:
        """A random order of 0 .. count-1."""
        items = list(range(count))
        for last in range(count - 1, 0, -1):
            other = self.integer(last + 1)
            items[last], items[other] = items[other], items[last]
        return items
