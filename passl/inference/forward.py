"""Which program runs the network in a pass over images: chosen, held against the live network, left when it fails."""
from __future__ import annotations

import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Type

import numpy as np
import paddle

from passl.inference.backends import BACKENDS, Backend, cpu_threads, write_program
from passl.inference.trial import (
    IMAGES,
    TrialFailed,
    memory_file,
    network_key,
    outputs_of,
    recall,
    remember,
    run_trial,
)

LOGGER = logging.getLogger("passl.inference")
TOLERANCE = 1e-4  # largest difference from the live network, as a share of the largest value
# What is left to do on the live network, in seconds, from which a program pays: to start one takes 6 to 7 seconds of a
# core, and the first time a child process as well (docs/benchmarks.md); it saves half of the time or more.
WORTH_SECONDS = 20.0

Live = Callable[[paddle.Tensor], Dict[str, paddle.Tensor]]


class Forward:
    """`forward(images [b, 3, H, W]) -> {name: tensor}` for the batches of one pass, the first of which is the largest.

    live: the network's own outputs, called in evaluation mode. names: of the outputs. choice: one of CHOICES. images:
    how many the pass has, to judge whether a program is worth its start.

    The first batch runs on the live network. A program that differs from it, crashes, raises or gives what is not
    finite where the network does not is left for the live network, with a warning.
    """

    def __init__(self, network: paddle.nn.Layer, live: Live, names: Sequence[str], choice: str, images: int):
        self.network, self.live, self.names, self.choice = network, live, list(names), choice
        self.left = images
        self.backend: Optional[Backend] = None
        self.shape: Optional[List[int]] = None  # of a program's batch; None before the first batch
        self.start_seconds = 0.0  # spent on building and checking

    def __call__(self, images: paddle.Tensor) -> Dict[str, paddle.Tensor]:
        if self.shape is None:
            self.shape = list(images.shape)
            return self._first(images)
        self.left -= len(images)
        if self.backend is None or images.shape[1:] != self.shape[1:] or len(images) > self.shape[0]:
            return self.live(images)
        try:
            found = self._run(self.backend, images.numpy())
        except Exception as error:  # whatever a back end raises
            self._leave(f"failed after the first batches: {_one_line(error)}")
            return self.live(images)
        if not all(np.isfinite(array).all() for array in found.values()):
            output = self.live(images)
            if all(bool(paddle.isfinite(tensor).all()) for tensor in output.values()):
                self._leave("gives NaN or infinity where the network does not")
            return output
        return {name: paddle.to_tensor(array) for name, array in found.items()}

    def __str__(self) -> str:
        """What runs the network now, with versions."""
        return f"{self.backend.name} ({self.backend.versions()})" if self.backend is not None else "eager"

    def _first(self, images: paddle.Tensor) -> Dict[str, paddle.Tensor]:
        begin = time.perf_counter()
        output = self.live(images)
        if not all(isinstance(tensor, paddle.Tensor) for tensor in output.values()):
            return output  # of a layer that is no network of ours; the caller says what it wants
        expected = {name: tensor.astype("float32").numpy() for name, tensor in output.items()}
        seconds = time.perf_counter() - begin
        self.left -= len(images)
        remaining = seconds * self.left / len(images)
        if self.choice == "eager" or not _is_plain(images, output):
            return output
        if not all(np.isfinite(array).all() for array in expected.values()):
            return output  # the caller's to report
        if self.choice == "auto" and remaining < WORTH_SECONDS:
            LOGGER.info(f"engine: eager; the {self.left} images left take about {remaining:.0f} s, and a faster engine "
                        "as long to start")
            return output
        self._choose(images.numpy(), expected)
        self.start_seconds = time.perf_counter() - begin - seconds
        return output

    def _choose(self, images: np.ndarray, expected: Dict[str, np.ndarray]) -> None:
        """Take the first back end that gives what the network gives; warn of those that should have and did not."""
        wanted = list(BACKENDS) if self.choice == "auto" else [self.choice]
        begin = time.perf_counter()
        for backend in (BACKENDS[name] for name in wanted if not BACKENDS[name].missing()):
            try:
                built, difference = self._build(backend, images, expected)
            except Exception as error:
                warnings.warn(f"the engine {backend.name} ({backend.versions()}) is not used: {_one_line(error)}",
                              stacklevel=2)
                continue
            self.backend = built
            LOGGER.info(f"engine: {self}, {cpu_threads()} threads, batches of "
                        f"{len(images)}; differs by {difference:.0e} of the largest value from the live network; "
                        f"started in {time.perf_counter() - begin:.1f} s")
            return
        LOGGER.info("engine: eager; no other one can run this network")

    def _build(self, backend: Type[Backend], images: np.ndarray, expected: Dict[str, np.ndarray]
               ) -> Tuple[Backend, float]:
        """A back end and how much it differs on the first batch; raises what stands against using it."""
        key = network_key(backend, self.network, self.names, images.shape)
        known = recall().get(key)
        if known:
            raise TrialFailed(f"it {known} with this network before; remove {memory_file()} to try again")
        with tempfile.TemporaryDirectory(prefix="passl-engine-") as name:
            folder = Path(name)
            write_program(self.network, self.names, images.shape, folder)
            if known is None:
                np.save(folder / IMAGES, images)
            if known is None or backend.needs_onnx:
                try:
                    run_trial(backend, folder, cpu_threads())
                except TrialFailed as error:
                    remember(key, str(error))
                    raise
            if known is None:
                difference_of(outputs_of(folder, self.names), expected)
                remember(key, "")
            built = backend(folder, cpu_threads())
            return built, difference_of(self._run(built, images), expected)

    def _run(self, backend: Backend, images: np.ndarray) -> Dict[str, np.ndarray]:
        """Outputs by name. A short batch is filled up: a program has one shape, the one that it was built for."""
        assert self.shape is not None
        count = len(images)
        if count < self.shape[0]:
            images = np.concatenate([images, np.zeros([self.shape[0] - count, *images.shape[1:]], images.dtype)])
        return {name: array[:count] for name, array in zip(self.names, backend(np.ascontiguousarray(images)))}

    def _leave(self, why: str) -> None:
        warnings.warn(f"the engine {self} {why}; the pass goes on with the live "
                      "network", stacklevel=3)
        self.backend = None


def autocast_is_on() -> bool:
    """Whether mixed precision is in force, whose results are its own."""
    from paddle.base import core, framework

    return framework._dygraph_tracer()._amp_level != core.AmpLevel.O0


def _is_plain(images: paddle.Tensor, output: Dict[str, paddle.Tensor]) -> bool:
    """Whether a pass is one in float32 on a CPU."""
    return (images.place.is_cpu_place() and not autocast_is_on()
            and all(tensor.dtype == paddle.float32 for tensor in (images, *output.values())))


def difference_of(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """max |a - b| / max |b|, the largest of all outputs; ValueError above TOLERANCE, for NaN and for other shapes."""
    worst = 0.0
    for name, array in expected.items():
        if found[name].shape != array.shape:
            raise ValueError(f"its {name} have the shape {list(found[name].shape)}, not {list(array.shape)}")
        difference = float(np.abs(found[name] - array).max() / max(float(np.abs(array).max()), 1e-30))
        if not difference <= TOLERANCE:
            raise ValueError(f"its {name} differ from the live network's by {difference:.0e} of the largest value, and "
                             f"{TOLERANCE:.0e} is allowed")
        worst = max(worst, difference)
    return worst


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
