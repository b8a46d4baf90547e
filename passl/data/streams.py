"""Random numbers as a pure function of (seed, epoch, sample index).

Nothing here keeps state between samples: the process, the worker, the rank and the order in which samples are asked for
cannot change a draw. The generator is SplitMix64 (Steele, Lea and Flood, 2014) used as a counter-based hash. It is four
lines of integer arithmetic, so the numbers do not depend on the NumPy version, and a stream costs microseconds to open
where a NumPy bit generator costs tens of them.
"""
from __future__ import annotations

import math
from typing import Tuple

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_TO_UNIT = 2.0 ** -53


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def stream_key(*parts: int) -> int:
    """64-bit key of a stream; each of `parts` (any integers) is absorbed in order, so (1, 2) and (2, 1) differ."""
    key = _GOLDEN
    for part in parts:
        key = _mix((key + _GOLDEN + _mix((int(part) + _GOLDEN) & _MASK)) & _MASK)
    return key


def uniforms(key: int, shape: Tuple[int, ...]) -> np.ndarray:
    """The first draws of stream `key`: float64 array of `shape`, uniform in [0, 1)."""
    return (hashes(key, math.prod(shape)) >> np.uint64(11)).reshape(shape) * _TO_UNIT


def hashes(key: int, count: int) -> np.ndarray:
    """uint64 array of the first `count` 64-bit draws of stream `key`."""
    z = _COUNTERS[:count] if count <= len(_COUNTERS) else _counters(count)
    z = z + np.uint64(key)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def _counters(count: int) -> np.ndarray:
    return np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)


_COUNTERS = _counters(1024)


def permutation(size: int, *parts: int) -> np.ndarray:
    """Order of `size` items, int64, drawn from the stream of `parts`."""
    return np.argsort(hashes(stream_key(*parts), size), kind="stable").astype(np.int64)


class Stream:
    """Scalar draws for one sample, for transforms that draw a handful of numbers.

    Yields the same sequence as `uniforms(key, n)`.
    """

    def __init__(self, *parts: int):
        self._state = stream_key(*parts)

    def random(self) -> float:
        """Uniform in [0, 1)."""
        self._state = (self._state + _GOLDEN) & _MASK
        return (_mix(self._state) >> 11) * _TO_UNIT

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
