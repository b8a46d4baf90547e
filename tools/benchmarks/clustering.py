#!/usr/bin/env python
"""Time and memory of whole-data-set clustering (k-means, balanced labels) against other libraries, in one run.

    OMP_NUM_THREADS=2 python tools/benchmarks/clustering.py --sizes 10000 100000 1000000

Every measurement runs in a process of its own, on unit-norm float32 embeddings, one after the other. Time per iteration
is the median over iterations, set-up excluded; memory is the peak of the resident set above what it was before the
call, when the embeddings are already there. faiss-cpu, scikit-learn and POT are compared where installed; a case whose
matrices would not fit the free memory is left out and says so. Prints one Markdown table and an estimate for ImageNet
on eight GPUs that is computed, not measured.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

TEMPERATURE, EXPONENT = 0.1, 2.0  # SwAV's epsilon 0.05
IMAGENET, GPUS = 1_281_167, 8
GPU_FLOPS, GPU_BYTES = 0.5 * 19.5e12, 0.7 * 1.555e12  # A100 40 GB: half its float32 peak, 70 % of its bandwidth
KEPT_BYTES = 2 * 2**30


class PeakMemory:
    """Highest resident set of this process inside the block, in bytes above the start, sampled every 5 ms."""

    def __enter__(self):
        import psutil
        self._process, self._done = psutil.Process(), threading.Event()
        self._start = self._peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self):
        while not self._done.wait(0.005):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()
        self.bytes = max(0, self._peak - self._start)


class Ticks:
    """Collectives of a single process that note when each all-reduce happens: one per iteration."""

    def __init__(self):
        self.times = {}

    def rank(self):
        return 0

    def all_reduce(self, tensor, op="sum"):
        self.times.setdefault(tuple(tensor.shape), []).append(time.perf_counter())
        return tensor

    def broadcast(self, tensor, source=0):
        return tensor

    def per_iteration(self, shape):
        times = self.times[shape]
        return statistics.median(after - before for before, after in zip(times, times[1:]))


def unit_rows(rows, columns, seed):
    import numpy as np
    rng, result = np.random.default_rng(seed), np.empty((rows, columns), np.float32)
    for start in range(0, rows, 100_000):
        block = result[start:start + 100_000]
        block[:] = rng.standard_normal(block.shape, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return result


def passl_kmeans(x, prototypes, iterations):
    from passl.clustering.kmeans import kmeans
    ticks = Ticks()
    kmeans(x, initial_centroids=prototypes, iterations=iterations + 1, collectives=ticks)
    return ticks.per_iteration((len(prototypes), x.shape[1] + 1))


def faiss_kmeans(x, prototypes, iterations):
    import faiss
    faiss.omp_set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = faiss.Kmeans(x.shape[1], len(prototypes), niter=iterations + 1, spherical=True, verbose=False,
                         max_points_per_centroid=len(x), min_points_per_centroid=1)
    model.train(x, init_centroids=prototypes)
    times = [model.iteration_stats[i]["time"] for i in range(len(model.iteration_stats))]
    return statistics.median(after - before for before, after in zip(times, times[1:]))


def sklearn_kmeans(x, prototypes, iterations):
    from sklearn.cluster import KMeans

    def run(count):
        start = time.perf_counter()
        model = KMeans(len(prototypes), init=prototypes, n_init=1, max_iter=count, tol=0, algorithm="lloyd").fit(x)
        return time.perf_counter() - start, model.n_iter_

    few, many = run(1), run(iterations + 1)
    return (many[0] - few[0]) / max(1, many[1] - few[1])


def passl_balanced(x, prototypes, iterations, kernel_memory=KEPT_BYTES):
    from passl.clustering.balanced_labels import balanced_labels
    ticks = Ticks()
    balanced_labels(x, prototypes.T, temperature=TEMPERATURE, exponent=EXPONENT, tolerance=1e-300,
                    max_iterations=iterations + 1, kernel_memory=kernel_memory, collectives=ticks)
    return ticks.per_iteration((len(prototypes) + 1,))


def passl_balanced_nothing_kept(x, prototypes, iterations):
    return passl_balanced(x, prototypes, iterations, kernel_memory=0)


def numpy_sinkhorn(x, prototypes, iterations):
    """SeLa's way: the whole kernel in float64."""
    import numpy as np
    kernel = (x @ prototypes.T).astype(np.float64)
    kernel *= EXPONENT / TEMPERATURE
    np.exp(kernel, out=kernel)
    images, clusters = kernel.shape
    c, times = np.full(images, 1 / images), []
    for _ in range(iterations + 1):
        r = (1 / clusters) / (c @ kernel)
        c = (1 / images) / (kernel @ r)
        times.append(time.perf_counter())
    return statistics.median(after - before for before, after in zip(times, times[1:]))


def pot_sinkhorn(x, prototypes, iterations):
    import numpy as np
    import ot
    cost = -(x @ prototypes.T).astype(np.float64)
    images, clusters = cost.shape

    def run(count):
        start = time.perf_counter()
        ot.sinkhorn(np.full(images, 1 / images), np.full(clusters, 1 / clusters), cost, TEMPERATURE / EXPONENT,
                    numItermax=count, stopThr=0, warn=False)
        return time.perf_counter() - start

    return (run(10 * iterations + 1) - run(1)) / (10 * iterations)


# name -> (function, what it solves, module it needs, bytes beyond the embeddings for n images and k clusters)
CASES = {
    "passl kmeans": (passl_kmeans, "k-means", None, lambda n, k: 0),
    "faiss, spherical": (faiss_kmeans, "k-means", "faiss", lambda n, k: 0),
    "scikit-learn, Lloyd": (sklearn_kmeans, "k-means", "sklearn", lambda n, k: 1024 * n),
    "passl balanced_labels, 2 GiB kept": (passl_balanced, "balanced labels", None, lambda n, k: KEPT_BYTES),
    "passl balanced_labels, nothing kept": (passl_balanced_nothing_kept, "balanced labels", None, lambda n, k: 0),
    "NumPy, whole matrix": (numpy_sinkhorn, "balanced labels", None, lambda n, k: 12 * n * k),
    "POT sinkhorn": (pot_sinkhorn, "balanced labels", "ot", lambda n, k: 36 * n * k),
}


def measure(case, images, options):
    """Seconds per iteration and peak bytes of one case, measured in this process."""
    warnings.simplefilter("ignore")
    x, prototypes = unit_rows(images, options.dim, 0), unit_rows(options.clusters, options.dim, 1)
    function = CASES[case][0]
    function(x[:1024], prototypes[:8], 1)  # imports and thread pools
    with PeakMemory() as memory:
        seconds = function(x, prototypes, options.iterations)
    return {"seconds": seconds, "bytes": memory.bytes}


def measure_apart(case, images, options):
    """`measure` in a new process; a text instead when the case cannot run here."""
    import importlib.util

    import psutil
    _, _, module, needed = CASES[case]
    if module and importlib.util.find_spec(module) is None:
        return f"{module} is not installed"
    need, free = needed(images, options.clusters), psutil.virtual_memory().available
    if need > 0.7 * free:
        return f"needs {need / 1e9:.0f} GB"
    command = [sys.executable, __file__, "--case", case, "--sizes", str(images), "--clusters", str(options.clusters),
               "--dim", str(options.dim), "--iterations", str(options.iterations)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{case} with {images} images failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(results, options):
    """Markdown: one row per case and size; the slope is the exponent of the growth from the row before it."""
    lines = ["| problem | implementation | images | time per iteration | slope | memory beyond the embeddings |",
             "|---|---|---|---|---|---|"]
    for case, (_, problem, _, _) in CASES.items():
        before = None
        for images in options.sizes:
            found = results[case, images]
            if isinstance(found, str):
                lines.append(f"| {problem} | {case} | {images:,} | - ({found}) | | |")
                continue
            seconds = found["seconds"]
            slope = f"{math.log(seconds / before[1]) / math.log(images / before[0]):.2f}" if before else ""
            lines.append(f"| {problem} | {case} | {images:,} | {seconds:.3f} s | {slope} | "
                         f"{found['bytes'] / 2**20:,.0f} MiB |")
            before = images, seconds
    return "\n".join(lines)


def imagenet_estimate(clusters, dim):
    """Text: time of one k-means iteration and one balanced-labels iteration for ImageNet on eight GPUs, computed."""
    rows = math.ceil(IMAGENET / GPUS)
    entries = rows * clusters
    kmeans = 4 * entries * dim / GPU_FLOPS + 16 * entries / GPU_BYTES
    kept = 28 * entries / GPU_BYTES
    formed = 2 * entries * dim / GPU_FLOPS + (28 + 24) * entries / GPU_BYTES
    return "\n".join([
        f"Estimate, not measured: ImageNet ({IMAGENET:,} images, {clusters} clusters, {dim} dimensions) on {GPUS} A100 "
        f"at {GPU_FLOPS / 1e12:.2f} TFLOP/s (half of the float32 peak) and {GPU_BYTES / 1e12:.2f} TB/s (70 % of the "
        f"peak), {rows:,} images per GPU:",
        "",
        "- k-means: 4 N K D operations (assignment and sums, both matrix products) and 16 bytes per entry of N x K "
        f"(scores and one-hot labels, written and read): {1e3 * kmeans:.0f} ms per iteration, {11 * kmeans:.1f} s for "
        "10 updates and the last assignment of one head.",
        f"- balanced labels, kernel kept ({4 * entries / 2**30:.1f} GiB per GPU): 28 bytes per entry (read in float32, "
        f"written and read twice in float64): {1e3 * kept:.0f} ms per iteration. Formed each time: 2 N K D operations "
        f"and 24 bytes more: {1e3 * formed:.0f} ms. 200 iterations: {200 * kept:.0f} s and {200 * formed:.0f} s.",
        f"- communication per iteration: {8 * clusters * (dim + 1) / 1e6:.1f} MB (k-means) and "
        f"{8 * (clusters + 1) / 1e3:.0f} kB (balanced labels) in one all-reduce: below 1 ms on NVLink.",
    ])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000], help="numbers of images")
    parser.add_argument("--clusters", type=int, default=3000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=3, help="timed iterations per case")
    parser.add_argument("--case", choices=list(CASES), help="measure this one here and print JSON")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    if options.case:
        print(json.dumps(measure(options.case, options.sizes[0], options)))
        return
    options.sizes.sort()
    load_before = os.getloadavg()[0]
    results = {}
    for images in options.sizes:
        for case in CASES:
            results[case, images] = measure_apart(case, images, options)
            print(f"{images:>9,} {case}: {results[case, images]}", file=sys.stderr, flush=True)
    print(f"{options.clusters} clusters, {options.dim} dimensions, {os.environ['OMP_NUM_THREADS']} threads, "
          f"median of {options.iterations} iterations; load average of the machine {load_before:.1f} before, "
          f"{os.getloadavg()[0]:.1f} at the end\n")
    print(table(results, options))
    print()
    print(imagenet_estimate(options.clusters, options.dim))


if __name__ == "__main__":
    main()
