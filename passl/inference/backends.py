"""The programs that can run a network instead of Paddle's eager kernels: one class for each, all with the same call.

A back end is built from the files of a static program of one fixed shape and called with arrays of that shape. It knows
nothing of the live network; `passl.inference.forward` chooses one and holds it against the network.
"""
from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Type

import numpy as np
import paddle
from paddle import nn

from passl.errors import UserError
from passl.inference.exported import Exported, model_files

PROGRAM, ONNX = "program", "program.onnx"  # names in the folder of a program


class StaticNetwork(nn.Layer):
    """Normalised images [B, 3, H, W] -> the outputs of a network that are named, as a tuple in that order."""

    def __init__(self, network: nn.Layer, names: Sequence[str]):
        super().__init__()
        self.network, self.names = network, tuple(names)

    def forward(self, images):
        if hasattr(self.network, "outputs"):
            found = self.network.outputs(images, self.names)
            return tuple([found[name] for name in self.names])
        features = self.network.extract_feat if hasattr(self.network, "extract_feat") else self.network
        return (features(images),)  # a layer of somebody else's gives features only


def write_program(network: nn.Layer, names: Sequence[str], shape: Sequence[int], folder: Path) -> None:
    """Write a network in evaluation mode as a static program for float32 images of exactly `shape` [B, 3, H, W]."""
    static = StaticNetwork(network, names)
    for layer in static.sublayers(include_self=True):
        layer.training = False  # of the wrapper too, whoever the network is shared with
    spec = paddle.static.InputSpec(list(shape), "float32", "images")
    with paddle.no_grad(), _silent_stderr():
        paddle.jit.save(paddle.jit.to_static(static, input_spec=[spec], full_graph=True), str(folder / PROGRAM))


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Without what Paddle's C++ says while it traces a network, which is of no use to anybody."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def write_onnx(folder: Path) -> None:
    """Convert the program in `folder` to ONNX; in a process of its own, since paddle2onnx may crash."""
    with contextlib.suppress(ImportError):
        # Imported now it keeps its default. paddle2onnx would have it install packages by pip while it exports.
        import polygraphy.config  # noqa: F401
    import paddle2onnx

    program, weights = map(str, model_files(folder / PROGRAM))
    paddle2onnx.export(program, weights, str(folder / ONNX), opset_version=13)
    if not (folder / ONNX).is_file():
        raise RuntimeError("paddle2onnx wrote no file")


def version_of(package: str) -> str:
    """The installed version of a package, without importing it."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return "of unknown version"


class Backend:
    """What runs a program: `backend(images float32 [B, 3, H, W]) -> [array [B, ...] of every output]`.

    folder: of `write_program`, for those with `needs_onnx` also of `write_onnx`. threads: of the CPU.
    """

    name = ""
    packages: Sequence[str] = ()  # that must be installed
    needs_onnx = False

    def __init__(self, folder: Path, threads: int):
        raise NotImplementedError

    def __call__(self, images: np.ndarray) -> List[np.ndarray]:
        raise NotImplementedError

    @classmethod
    def missing(cls) -> List[str]:
        """Packages that it needs and that are not installed."""
        return [package for package in cls.packages if importlib.util.find_spec(package) is None]

    @classmethod
    def versions(cls) -> str:
        """Name and version of all that takes part, for messages and as a key."""
        return ", ".join([*(f"{package} {version_of(package)}" for package in cls.packages),
                          f"Paddle {paddle.__version__}"])


class PaddleInference(Backend):
    """Paddle's own predictor, with oneDNN and all threads: by itself it takes one thread."""

    name = "paddle"

    def __init__(self, folder: Path, threads: int):
        self.run = Exported(folder / PROGRAM, threads)

    def __call__(self, images):
        return self.run(images)


class OnnxRuntime(Backend):
    """onnxruntime on the CPU."""

    name = "onnxruntime"
    packages = ("onnxruntime", "paddle2onnx")
    needs_onnx = True

    def __init__(self, folder: Path, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors
        self.session = onnxruntime.InferenceSession(str(folder / ONNX), options, providers=["CPUExecutionProvider"])
        self.images = self.session.get_inputs()[0].name

    def __call__(self, images):
        return self.session.run(None, {self.images: images})


class OpenVINO(Backend):
    """OpenVINO on the CPU, in float32: by itself it takes bfloat16 where the processor has it."""

    name = "openvino"
    packages = ("openvino", "paddle2onnx")
    needs_onnx = True

    def __init__(self, folder: Path, threads: int):
        import openvino

        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        self.model = openvino.Core().compile_model(str(folder / ONNX), "CPU", settings)
        self.request = self.model.create_infer_request()

    def __call__(self, images):
        self.request.infer([images], share_inputs=True)
        return [self.request.get_output_tensor(number).data.copy() for number in range(len(self.model.outputs))]


BACKENDS: Dict[str, Type[Backend]] = {one.name: one for one in (OnnxRuntime, OpenVINO, PaddleInference)}
CHOICES = ("auto", "paddle", "onnxruntime", "openvino", "eager")


def require_choice(choice: str) -> None:
    """UserError for a back end that there is not, or that is not installed."""
    if choice not in CHOICES:
        raise UserError(f"there is no engine '{choice}'; choose {', '.join(CHOICES)}")
    missing = BACKENDS[choice].missing() if choice in BACKENDS else []
    if missing:
        raise UserError(f"the engine {choice} needs {' and '.join(missing)}, not installed here: pip install "
                        "'passl[fast]', or take the engine auto")


def cpu_threads() -> int:
    """Threads of a back end: OMP_NUM_THREADS, which the commands set, else all cores that this process may use."""
    given: Any = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if given.isdigit() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
