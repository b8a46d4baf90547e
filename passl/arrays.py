"""Rows of a matrix in blocks, on the host or on an accelerator, and reductions over the ranks that share the rows.

Whole-data-set clustering walks over N rows many times and may hold only a bounded number of them against K clusters.
On the host the arithmetic runs in NumPy, whose element-wise kernels are several times faster than Paddle's CPU ones;
on an accelerator it runs in Paddle. The two share the spelling used here (`@`, `.max(1)`, `.astype`), so each
algorithm is written once, in terms of `RowBlocks.xp`.
"""
from __future__ import annotations

import numpy as np
import paddle

from passl.errors import NotFinite, UserError

HOST_BLOCK_BYTES = 8 * 2**20  # about the last-level cache: larger blocks are slower, not faster
ACCELERATOR_BLOCK_BYTES = 256 * 2**20


def uses_accelerator(array) -> bool:
    """Whether work on `array` runs on an accelerator: where a tensor lives, or Paddle's current device for NumPy."""
    if isinstance(array, paddle.Tensor):
        return not array.place.is_cpu_place()
    return not paddle.get_device().startswith("cpu")


class RowBlocks:
    """A float matrix [rows, columns] (NumPy array, memory map or Paddle tensor) read in blocks of rows.

    Half-precision input is widened to float32; float32 and float64 are kept. `width` is the number of columns of the
    largest temporary that the caller builds per row (the clusters), from which the default `block_size` follows.
    Raises ValueError for anything that is not a two-dimensional float matrix.
    """

    def __init__(self, array, name: str, width: int = 0, block_size: int | None = None):
        is_tensor = isinstance(array, paddle.Tensor)
        if not is_tensor:
            array = np.asanyarray(array)
        kind = str(array.dtype).replace("paddle.", "")
        if len(array.shape) != 2 or kind not in ("float16", "bfloat16", "float32", "float64"):
            raise UserError(f"{name} must be a float matrix [rows, columns], got {kind} of shape {list(array.shape)}")
        if block_size is not None and block_size < 1:
            raise UserError(f"block_size must be at least 1, got {block_size}")
        self.accelerated = uses_accelerator(array)
        self.xp = paddle if self.accelerated else np
        self.array, self.name, self.is_tensor = array.detach() if is_tensor else array, name, is_tensor
        self.dtype = "float64" if kind == "float64" else "float32"
        self.rows, self.columns = (int(size) for size in array.shape)
        budget = ACCELERATOR_BLOCK_BYTES if self.accelerated else HOST_BLOCK_BYTES
        row_bytes = max(width, self.columns, 1) * np.dtype(self.dtype).itemsize
        self.block_size = block_size or max(1, budget // row_bytes)

    def __iter__(self):
        """Yields (slice of rows, block [b, columns] of `xp`)."""
        for start in range(0, self.rows, self.block_size):
            rows = slice(start, min(start + self.block_size, self.rows))
            yield rows, self.matrix(self.array[rows])

    def products(self, weight):
        """Yields (slice of rows, block [b, columns], block @ weight [b, K]); `weight` [columns, K] is NumPy.

        On the host each product is written into the same memory, which is faster than fresh memory for every block, so
        it is valid until the next one is asked for.
        """
        weight = self.matrix(weight)
        if not self.accelerated:
            weight = np.ascontiguousarray(weight)
            memory = np.empty((min(self.block_size, self.rows), weight.shape[1]), self.dtype)
        for rows, block in self:
            yield rows, block, block @ weight if self.accelerated else np.matmul(block, weight, out=memory[:len(block)])

    def matrix(self, values):
        """`values` (NumPy or Paddle) as an array of `xp` in this matrix's dtype, on the device the work runs on."""
        if self.accelerated:
            tensor = values if isinstance(values, paddle.Tensor) else paddle.to_tensor(np.asarray(values))
            return tensor.astype(self.dtype)
        if isinstance(values, paddle.Tensor):
            values = values.astype(self.dtype).numpy()
        return np.asarray(values, dtype=self.dtype)

    def vector(self, values):
        """A NumPy vector as a float64 vector of `xp`."""
        return paddle.to_tensor(np.asarray(values, np.float64)) if self.accelerated else np.asarray(values, np.float64)

    def output(self, values: np.ndarray):
        """A NumPy result in the kind of array that came in (tensors come back on the input's device)."""
        return paddle.to_tensor(values, place=self.array.place) if self.is_tensor else values

    def check_finite(self, collectives) -> None:
        """Raise FloatingPointError, on every rank alike, when any rank's rows hold NaN or infinity."""
        bad, first = 0, None
        for rows, block in self:
            broken = ~to_numpy(self.xp.isfinite(block).all(1))
            if broken.any() and first is None:
                first = rows.start + int(broken.argmax())
            bad += int(broken.sum())
        raise_if_not_finite(bad, first, self.name, collectives)


def raise_if_not_finite(bad: int, first: int | None, name: str, collectives) -> None:
    """Raise FloatingPointError on every rank when the sum of `bad` rows over the ranks is not zero."""
    total = int(reduce_over_ranks(np.array([bad], np.float64), "sum", collectives)[0])
    if total:
        where = f"the first one here is row {first}" if first is not None else "none of them on this rank"
        raise NotFinite(f"{name}: {total} rows hold NaN or infinity ({where}); "
                        "the network that produced them has diverged or the rows were never written")


def to_numpy(array) -> np.ndarray:
    """A Paddle tensor or array-like as NumPy; bfloat16, which NumPy lacks, as float32."""
    if isinstance(array, paddle.Tensor):
        return (array.astype("float32") if array.dtype == paddle.bfloat16 else array).numpy()
    return np.asarray(array)


def reduce_over_ranks(values: np.ndarray, op: str, collectives) -> np.ndarray:
    """One all-reduce of a NumPy array; `op` is "sum", "max" or "min"."""
    return collectives.all_reduce(paddle.to_tensor(values), op).numpy()


def broadcast_from_first(values: np.ndarray, collectives) -> np.ndarray:
    """Rank 0's `values` on every rank; all ranks pass the same shape."""
    return collectives.broadcast(paddle.to_tensor(values), source=0).numpy()
