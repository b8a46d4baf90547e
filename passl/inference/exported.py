"""Run an exported model in Paddle Inference: `python -m passl.inference.exported PREFIX IN.npy OUT.npy`.

INPUT holds normalised images, float32 [B, 3, H, W]. Needs nothing of this library but this file, so it also serves as
an example for deployment.
"""
from __future__ import annotations

import argparse
import ctypes
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Optional, Sequence

import numpy as np


def model_files(prefix: Path) -> List[Path]:
    """What an export wrote: the program (.json in Paddle 3, .pdmodel in Paddle 2) and the weights."""
    return [file for suffix in (".json", ".pdmodel", ".pdiparams")
            for file in [prefix.with_name(prefix.name + suffix)] if file.exists()]


def process_threads() -> int:
    """Threads that Paddle's mathematics uses in this process: what its OpenMP says, else what was asked for."""
    import paddle

    try:
        return ctypes.CDLL(os.path.join(paddle.__path__[0], "libs", "libiomp5.so")).omp_get_max_threads()
    except (OSError, AttributeError):  # another system, or a Paddle without Intel's library
        return int(os.environ.get("OMP_NUM_THREADS", "1").split(",")[0])


@contextmanager
def threads_kept() -> Iterator[int]:
    """The threads of the process before and after the block.

    A predictor has threads of its own, 1 unless told. Creating one and each run of it set the whole process to that
    number and to 1 afterwards (Paddle 2.6.2 and 3.3.1), so that everything after it would run on one core.
    """
    from paddle.base import core

    before = process_threads()
    try:
        yield before
    finally:
        core.set_num_threads(before)


def run_exported(prefix: Path, images: np.ndarray, threads: Optional[int] = None) -> np.ndarray:
    """Output of the exported files for `images`, on the CPU; the threads of the process stay as they are.

    threads: of the predictor; None takes those of the process (OMP_NUM_THREADS when Paddle is imported).
    """
    from paddle import inference

    files = model_files(prefix)
    if len(files) != 2:
        raise FileNotFoundError(f"no exported model at {prefix}: wanted {prefix}.json or .pdmodel, and .pdiparams")
    program, weights = files
    config = inference.Config(str(program), str(weights))
    config.disable_glog_info()
    with threads_kept() as before:
        config.set_cpu_math_library_num_threads(threads or before)
        predictor = inference.create_predictor(config)
        predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(images)
        predictor.run()
        return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(arguments: Optional[Sequence[str]] = None) -> str:
    """Run PREFIX on INPUT.npy; what went wrong, or an empty string."""
    parser = argparse.ArgumentParser(prog="python -m passl.inference.exported", description="Run an exported model.")
    parser.add_argument("prefix", metavar="PREFIX", help="what passl-export --to was given")
    parser.add_argument("source", metavar="INPUT.npy", help="normalised images, float [B, 3, H, W]")
    parser.add_argument("target", metavar="OUTPUT.npy")
    parser.add_argument("--threads", type=int, default=None, metavar="N", help="CPU threads; default: OMP_NUM_THREADS, "
                        "else all cores")
    options = parser.parse_args(arguments)
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads {options.threads}: it must be at least 1")
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))  # before Paddle is imported, which takes 1
    try:
        images = np.load(options.source)
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype.kind != "f":
            return (f"{options.source} holds {images.dtype} {list(images.shape)}; wanted are normalised floats "
                    "[B, 3, H, W]")
        np.save(options.target, run_exported(Path(options.prefix), images.astype(np.float32), options.threads))
    except (OSError, ValueError) as error:
        return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(main() or 0)
