"""The deterministic weights and inputs that the reference numbers beside this file were measured on.

Every array follows from its name and a seed through numpy's frozen legacy generator, so nothing random is stored.
Names and shapes are PyTorch's (a Linear weight is [out, in]).
"""
import zlib

import numpy as np


def weight(name, shape, seed=0, running_stats=True):
    """float32 array of one state-dict entry; running_stats=False gives a fresh batch norm (mean 0, variance 1)."""
    shape, leaf = tuple(shape), name.split(".")[-1]
    if leaf == "num_batches_tracked":
        return np.zeros((), np.int64)
    generator = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2 ** 32)
    normal = generator.standard_normal(shape)
    if leaf in ("running_mean", "running_var"):
        if not running_stats:
            return np.full(shape, 0.0 if leaf == "running_mean" else 1.0, np.float32)
        return (0.1 * normal if leaf == "running_mean" else np.exp(0.1 * normal)).astype(np.float32)
    if len(shape) == 4:
        outputs, _, height, width = shape
        scaled = normal * np.sqrt(2.0 / (outputs * height * width))
    elif len(shape) == 2:
        scaled = normal / np.sqrt(shape[1])
    elif leaf == "weight":
        scaled = 1 + 0.1 * normal
    else:
        scaled = 0.1 * normal
    return scaled.astype(np.float32)


def crops(step, rank, batch_size, spec, seed=0):
    """Inputs of one step on one rank: for every crop of spec [(size, count), ...] a float32 [B, 3, size, size]."""
    sizes = [size for size, count in spec for _ in range(count)]
    return [np.random.RandomState(1000003 * seed + 10007 * step + 101 * rank + position)
            .standard_normal((batch_size, 3, size, size)).astype(np.float32)
            for position, size in enumerate(sizes)]
