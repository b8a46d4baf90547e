"""Run an exported model in Paddle Inference: `python -m passl.inference.exported PREFIX INPUT OUT.npy`.

INPUT is a folder of images, or a .npy file of normalised ones, float32 [B, 3, H, W]. Needs nothing of this library but
this file, so it also serves as an example for deployment.
"""
from __future__ import annotations

import argparse
import ctypes
import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Sequence

import numpy as np

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.228, 0.224, 0.225])  # what the released networks saw
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


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


class Exported:
    """An exported model, ready to run: `exported(images float32 [B, 3, H, W]) -> [array of every output]`.

    threads: of the CPU; None takes those of the process (OMP_NUM_THREADS when Paddle is imported), which stay as they
    are. Give it one batch size and one image size: oneDNN prepares itself for every new shape.
    FileNotFoundError without the files of `prefix`.
    """

    def __init__(self, prefix: Path, threads: Optional[int] = None):
        from paddle import inference

        files = model_files(prefix)
        if len(files) != 2:
            raise FileNotFoundError(f"no exported model at {prefix}: wanted {prefix}.json or .pdmodel, and .pdiparams")
        config = inference.Config(*map(str, files))
        config.disable_glog_info()
        config.enable_mkldnn()  # the default of Paddle 3, not of 2.6: half the time
        with threads_kept() as before:
            config.set_cpu_math_library_num_threads(threads or before)
            self.predictor = inference.create_predictor(config)
        self.images = self.predictor.get_input_handle(self.predictor.get_input_names()[0])
        self.outputs = [self.predictor.get_output_handle(name) for name in self.predictor.get_output_names()]

    def __call__(self, images: np.ndarray) -> List[np.ndarray]:
        with threads_kept():
            self.images.copy_from_cpu(images)
            self.predictor.run()
            return [output.copy_to_cpu() for output in self.outputs]


def run_exported(prefix: Path, images: np.ndarray, threads: Optional[int] = None) -> np.ndarray:
    """The first output of the exported files for `images`, see `Exported`."""
    return Exported(prefix, threads)(images)[0]


def prepared(path: Path, size: int) -> np.ndarray:
    """An image file as the evaluation of this library prepares it: float32 [3, size, size], shorter side 256 / 224."""
    from PIL import Image

    with Image.open(path) as file:
        picture = file.convert("RGB")
    shorter = round(size * 256 / 224) if size >= 96 else size
    longer = int(shorter * max(picture.size) / min(picture.size))
    picture = picture.resize((shorter, longer) if picture.width <= picture.height else (longer, shorter),
                             Image.Resampling.BILINEAR)
    left, top = round((picture.width - size) / 2), round((picture.height - size) / 2)
    pixels = np.asarray(picture.crop((left, top, left + size, top + size)), np.float32)
    return ((pixels / 255 - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)


def run_folder(model: Callable[[np.ndarray], List[np.ndarray]], folder: Path, size: int, batch_size: int) -> np.ndarray:
    """Outputs [N, ...] of all images below a folder, in the order of their names; the last batch is filled up.

    Threads decode the next batch while the model runs. FileNotFoundError for a folder without images.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"no images below {folder}: wanted are files that end in {', '.join(IMAGE_SUFFIXES)}")
    outputs = []
    with ThreadPoolExecutor() as pool:
        def start(first: int) -> List[Future]:
            return [pool.submit(prepared, path, size) for path in paths[first:first + batch_size]]

        waiting = start(0)
        for first in range(batch_size, len(paths) + batch_size, batch_size):
            coming = start(first)
            batch = np.zeros([batch_size, 3, size, size], np.float32)
            for row, picture in enumerate(waiting):
                batch[row] = picture.result()
            outputs.append(model(batch)[0][:len(waiting)])
            waiting = coming
    return np.concatenate(outputs)


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(arguments: Optional[Sequence[str]] = None) -> str:
    """Run PREFIX on INPUT.npy; what went wrong, or an empty string."""
    parser = argparse.ArgumentParser(prog="python -m passl.inference.exported", description="Run an exported model.")
    parser.add_argument("prefix", metavar="PREFIX", help="what passl-export --to was given")
    parser.add_argument("source", metavar="INPUT", help="a folder of images, or a .npy file of normalised images, "
                        "float [B, 3, H, W]")
    parser.add_argument("target", metavar="OUTPUT.npy")
    parser.add_argument("--threads", type=int, default=None, metavar="N", help="CPU threads; default: OMP_NUM_THREADS, "
                        "else all cores")
    parser.add_argument("--size", type=int, default=224, metavar="N", help="of a folder: pixels of the prepared images")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="of a folder: images in one run")
    options = parser.parse_args(arguments)
    if options.size < 1 or options.batch_size < 1:
        parser.error(f"--size {options.size} and --batch-size {options.batch_size} must be at least 1")
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads {options.threads}: it must be at least 1")
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))  # before Paddle is imported, which takes 1
    source = Path(options.source)
    try:
        images = None if source.is_dir() else np.load(source)
        if images is not None and (images.ndim != 4 or images.shape[1] != 3 or images.dtype.kind != "f"):
            return f"{source} holds {images.dtype} {list(images.shape)}; wanted are normalised floats [B, 3, H, W]"
        model = Exported(Path(options.prefix), options.threads)
        begin = time.perf_counter()
        if images is None:
            result = run_folder(model, source, options.size, options.batch_size)
        else:
            result = model(images.astype(np.float32))[0]
        seconds = time.perf_counter() - begin
        np.save(options.target, result)
        print(f"{len(result)} images in {seconds:.1f} s, {len(result) / seconds:.1f} images/s")
    except (OSError, ValueError) as error:
        return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(main() or 0)
