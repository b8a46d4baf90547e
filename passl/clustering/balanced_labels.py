"""Labels for a whole data set under equipartition: SeLa's optimal transport, by Sinkhorn-Knopp over all ranks."""
from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from passl import distributed
from passl.arrays import RowBlocks, raise_if_not_finite, reduce_over_ranks, to_numpy
from passl.errors import UserError

ERROR_PERIOD = 10  # the reference looks at the error at iterations 0, 10, 20, ...
HOST_KERNEL_BYTES = 3 * 2**20  # of a float64 block: it, its float32 source and the features fit the cache together
ABSORB_SPREAD = 40.0  # e^40: entries that a float32 kernel loses at this spread are below 1e-20 of their row's total


class BalancedLabels(NamedTuple):
    """Result of `balanced_labels`.

    `labels` int64 [N] of this rank's rows; `counts` int64 [K] of the hard labels over all ranks; `iterations` run;
    `error` last compared with the tolerance; `converged`; `assignments` [N, K] with rows that sum to 1 (only with
    soft=True, otherwise None).
    """

    labels: Any
    counts: Any
    iterations: int
    error: float
    converged: bool
    assignments: Any = None


def balanced_labels(inputs, weight=None, bias=None, *, temperature: float = 1.0, exponent: float = 25.0,
                    tolerance: float = 0.1, tolerance_mode: str = "sum", max_iterations: int = 2000, soft: bool = False,
                    block_size: int | None = None, kernel_memory: int = 2 * 2**30, collectives=distributed
                    ) -> BalancedLabels:
    """Assign every image of the data set to one of K clusters so that clusters are equally large (SeLa, section 3.2).

    Solves max <Q, log P> + H(Q) / exponent with P = softmax(logits / temperature), rows of Q (images) summing to 1/N
    and columns (clusters) to 1/K: Q = diag(c) P^exponent diag(r). The label of an image is the argmax of its row; only
    Q is balanced exactly, the hard labels approximately (identical images, for one, share their label). SwAV's epsilon
    corresponds to exponent = temperature / epsilon.

    The kernel P^exponent is formed block by block, each row scaled by its maximum, with large column potentials
    absorbed into the exponent: nothing overflows and no cluster vanishes for any exponent. Potentials are float64. One
    iteration is one pass over the rows and one all-reduce of K + 1 numbers; time is linear in N x K.

    Args:
        inputs: logits [N, K] of this rank's images, or their features [N, D] when `weight` is given; NumPy (a memory
            map will do) or Paddle, float16/32/64. float64 input is computed in float64 throughout. Ranks may hold
            different numbers of rows.
        weight: [D, K], Paddle's Linear layout. bias: [K].
        temperature: divides the logits; 1 in SeLa, 0.1 in SeLa-v2.
        exponent: lambda of the paper; 25 on ImageNet, 10 on CIFAR. Larger is closer to unregularised transport and
            takes more iterations.
        tolerance: stop when sum_i |c_i / c_i' - 1| (tolerance_mode "sum", as the original) or its mean over the images
            ("mean") is not above this. Looked at after iterations 1, 11, 21, ...
        max_iterations: cap, with a warning when it is reached before the tolerance.
        soft: also return the rows of Q, scaled to sum to 1: N x K numbers.
        block_size: rows of the kernel formed at a time; by default, and at most, as many as fit the cache.
        kernel_memory: bytes in which kernel blocks are kept between iterations; the rest is formed again in each one.
            It changes the time, never the result.
        collectives: offers all_reduce; `passl.distributed` unless given.
    Returns:
        BalancedLabels, arrays of the kind that came in.
    Raises:
        ValueError: shapes or options do not fit, or there is no row on any rank.
        FloatingPointError: a logit on any rank is not finite (raised on all ranks).
    Example:
        Three of four images have their largest logit in the first cluster; the labels are even.

        >>> import numpy as np
        >>> from passl.clustering import balanced_labels
        >>> logits = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.5], [0.1, 0.7]])
        >>> result = balanced_labels(logits, tolerance=0.001)
        >>> result.labels.tolist(), result.counts.tolist(), result.converged
        ([0, 0, 1, 1], [2, 2], True)
    """
    if tolerance_mode not in ("sum", "mean"):
        raise UserError(f"tolerance_mode must be 'sum' or 'mean', got {tolerance_mode!r}")
    for name, value in (("temperature", temperature), ("exponent", exponent), ("tolerance", tolerance),
                        ("max_iterations", max_iterations)):
        if not value > 0:
            raise UserError(f"{name} must be positive, got {value}")
    kernel = _Kernel(inputs, weight, bias, temperature, exponent, block_size, kernel_memory)
    images = int(reduce_over_ranks(np.array([kernel.rows]), "sum", collectives)[0])
    if images == 0:
        raise UserError("balanced_labels got no rows on any rank")

    log_scale = _start(kernel, collectives)
    column_sums = np.zeros(kernel.clusters)
    for rows, block in kernel:
        column_sums += kernel.column_sums(block, np.exp(log_scale[rows]) / images)
    column_sums = reduce_over_ranks(column_sums, "sum", collectives)
    log_image_potential = log_scale - np.log(images) - kernel.peaks

    iteration, error = 0, np.inf
    while error > tolerance and iteration < max_iterations:
        log_prior = _log_cluster_prior(column_sums, kernel)
        partial = np.zeros(kernel.clusters + 1)  # the last entry sums the error
        for rows, block in kernel:
            scale = 1 / (images * kernel.row_sums(block, np.exp(log_prior)))
            updated = np.log(scale) - kernel.peaks[rows]
            partial[:-1] += kernel.column_sums(block, scale)
            partial[-1] += np.abs(np.expm1(log_image_potential[rows] - updated)).sum()
            log_image_potential[rows] = updated
        totals = reduce_over_ranks(partial, "sum", collectives)
        column_sums = totals[:-1]
        if iteration % ERROR_PERIOD == 0:
            error = float(totals[-1] if tolerance_mode == "sum" else totals[-1] / images)
        iteration += 1
    converged = error <= tolerance
    if not converged:
        warnings.warn(f"balanced_labels stopped after {iteration} iterations with error {error:.3g} above the "
                      f"tolerance {tolerance:g} ({tolerance_mode}); clusters may be uneven. Raise max_iterations or "
                      "the tolerance, or lower the exponent", stacklevel=2)
    return _labels(kernel, np.exp(log_prior), soft, iteration, error, converged, collectives)


class _Kernel:
    """exp(exponent * logits / temperature + absorbed - row peak) [N, K], in blocks kept as far as memory goes.

    `absorbed` [K] is the part of the cluster prior that sits in the exponent, `peaks` [N] the row maxima taken out.
    """

    def __init__(self, inputs, weight, bias, temperature, exponent, block_size, kernel_memory):
        if weight is None and bias is not None:
            raise UserError("bias is given without weight: pass logits, or features with weight")
        self.exponent = exponent
        self.scale = exponent / temperature
        width = 0 if weight is None else int(weight.shape[-1])
        self.inputs = RowBlocks(inputs, "logits" if weight is None else "features", width, block_size)
        self.weight = self.bias = None
        if weight is not None:
            shape = [int(size) for size in weight.shape]
            if len(shape) != 2 or shape[0] != self.inputs.columns:
                raise UserError(f"weight must be [{self.inputs.columns}, K] for features with {self.inputs.columns} "
                                f"columns, got {shape}")
            self.weight = self.inputs.matrix(to_numpy(weight)) * self.scale
            if bias is not None:
                if [int(size) for size in bias.shape] != shape[1:]:
                    raise UserError(f"bias must be [{shape[1]}], got {list(bias.shape)}")
                self.bias = self.inputs.matrix(to_numpy(bias)) * self.scale
        self.rows, self.clusters = self.inputs.rows, width or self.inputs.columns
        if self.clusters < 1:
            raise UserError("balanced_labels needs at least one cluster")
        self.log_range = 80.0 if self.inputs.dtype == "float32" else 650.0  # exponents below it are lost
        self.peaks = np.zeros(self.rows)
        self.absorbed = np.zeros(self.clusters)
        self.kept_rows = kernel_memory // (self.clusters * np.dtype(self.inputs.dtype).itemsize)
        self.kept = {}
        self.block_size = self.inputs.block_size
        if not self.inputs.accelerated:
            self.block_size = min(self.block_size, max(1, HOST_KERNEL_BYTES // (8 * self.clusters)))
            self.formed = np.empty((self.block_size, self.clusters), self.inputs.dtype)  # for blocks that are not kept
            self.widened = np.empty((self.block_size, self.clusters))

    def slices(self):
        for start in range(0, self.rows, self.block_size):
            yield slice(start, min(start + self.block_size, self.rows))

    def __iter__(self):
        """Yields (slice of rows, kernel block in float64), refreshing `peaks` where a block is formed.

        Kept blocks have the input's precision; products are float64 because the noise of float32 ones (1e-7 per image)
        would hold the summed error above the tolerance. A block is valid until the next one is asked for, and is not
        to be written to: on the host its memory is reused, since fresh memory for every block costs as much as the
        arithmetic.
        """
        for rows in self.slices():
            block = self.kept.get(rows.start)
            if block is None:
                block = self.finish(self.below_peaks(self.exponents(rows), rows), rows)
            if self.inputs.accelerated:
                block = block.astype("float64")
            elif block.dtype != np.float64:
                np.copyto(self.widened[:len(block)], block)
                block = self.widened[:len(block)]
            yield rows, block

    def exponents(self, rows: slice):
        """Scaled logits [b, K] of some rows plus `absorbed`, in the memory of their kernel block."""
        block = self.inputs.matrix(self.inputs.array[rows])
        if self.inputs.accelerated:
            exponents = block * self.scale if self.weight is None else block @ self.weight
        else:
            kept = rows.stop <= self.kept_rows
            exponents = np.empty((len(block), self.clusters), self.formed.dtype) if kept else self.formed[:len(block)]
            if self.weight is None:
                np.multiply(block, self.scale, out=exponents)
            else:
                np.matmul(block, self.weight, out=exponents)
        if self.bias is not None:
            exponents += self.bias
        if self.absorbed.any():
            exponents += self.inputs.matrix(self.absorbed)
        return exponents

    def below_peaks(self, exponents, rows: slice):
        """Exponents (overwritten on the host) less the maximum of their row, which goes to `peaks`."""
        peaks = exponents.max(1)
        self.peaks[rows] = to_numpy(peaks)
        exponents -= peaks[:, None]
        return exponents

    def finish(self, exponents, rows: slice):
        """The kernel block of exponents below their peaks (overwritten on the host), kept when there is room."""
        block = self.inputs.xp.exp(exponents) if self.inputs.accelerated else np.exp(exponents, out=exponents)
        if rows.stop <= self.kept_rows:
            self.kept[rows.start] = block
        return block

    def absorb(self, log_prior: np.ndarray) -> None:
        """Move `log_prior` into the exponent; all blocks are formed anew."""
        self.absorbed = self.absorbed + log_prior
        self.kept.clear()

    def row_sums(self, block, prior: np.ndarray) -> np.ndarray:
        return to_numpy(block @ self.inputs.vector(prior))

    def column_sums(self, block, scale: np.ndarray) -> np.ndarray:
        return to_numpy(self.inputs.vector(scale) @ block)


def _start(kernel: _Kernel, collectives) -> np.ndarray:
    """Row factors [N] that turn the peak-scaled kernel into P^exponent, in logarithm and up to one common constant.

    The solution does not depend on them; the reference's iteration count does. Also checks that logits are finite, and
    leaves the kernel formed.
    """
    log_scale = np.zeros(kernel.rows)
    bad, first = 0, None
    xp = kernel.inputs.xp
    for rows in kernel.slices():
        exponents = kernel.exponents(rows)
        broken = ~to_numpy(xp.isfinite(exponents).all(1))
        if broken.any():
            first = rows.start + int(broken.argmax()) if first is None else first
            bad += int(broken.sum())
            continue
        exponents = kernel.below_peaks(exponents, rows)
        log_scale[rows] = -kernel.exponent * np.log(to_numpy(xp.exp(exponents / kernel.exponent).sum(1, "float64")))
        kernel.finish(exponents, rows)
    raise_if_not_finite(bad, first, "logits", collectives)
    largest = np.array([log_scale.max() if kernel.rows else -np.inf])
    return log_scale - reduce_over_ranks(largest, "max", collectives)[0]


def _log_cluster_prior(column_sums: np.ndarray, kernel: _Kernel) -> np.ndarray:
    """log r [K] relative to what the kernel has absorbed, after absorbing it when it spans too wide a range.

    A cluster that every image's kernel row has lost to underflow is raised by as much as the kernel's number range;
    it then reappears, in this or one of the next iterations.
    """
    with np.errstate(divide="ignore"):
        log_prior = -np.log(kernel.clusters * column_sums)
    log_prior = np.minimum(log_prior, log_prior.min() + kernel.log_range)
    if log_prior.max() - log_prior.min() > ABSORB_SPREAD:
        kernel.absorb(log_prior)
        log_prior = np.zeros_like(log_prior)
    return log_prior


def _labels(kernel, prior, soft, iterations, error, converged, collectives) -> BalancedLabels:
    labels = np.empty(kernel.rows, np.int64)
    assignments = np.empty((kernel.rows, kernel.clusters), kernel.inputs.dtype) if soft else None
    for rows, block in kernel:
        weighted = block * kernel.inputs.vector(prior)
        labels[rows] = to_numpy(weighted.argmax(1))
        if assignments is not None:
            assignments[rows] = to_numpy(weighted / weighted.sum(1)[:, None])
    counts = np.bincount(labels, minlength=kernel.clusters).astype(np.int64)
    counts = reduce_over_ranks(counts, "sum", collectives)
    output = kernel.inputs.output
    return BalancedLabels(output(labels), output(counts), iterations, error, converged,
                          output(assignments) if soft else None)
