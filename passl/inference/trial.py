"""A back end tried in a process of its own, which may crash: `python -m passl.inference.trial NAME FOLDER THREADS`.

Some versions of Paddle and paddle2onnx end with a segmentation fault for some networks. What a trial finds is
remembered for each combination of versions, processor and network, so that a command pays for it once.
"""
from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Dict, Mapping, Sequence, Type

import numpy as np
import paddle

from passl import files
from passl.inference.backends import BACKENDS, Backend, write_onnx
from passl.weights.zoo import home

IMAGES, OUTPUTS = "images.npy", "outputs.npz"  # what a trial runs on and what it gives; without images it only converts
SECONDS = 600.0


class TrialFailed(RuntimeError):
    """A back end that crashed, hung or raised in its child process."""


def memory_file() -> Path:
    """Where answers are kept: $PASSL_HOME/engines.json, by default below ~/.passl."""
    return Path(home()) / "engines.json"


def network_key(backend: Type[Backend], network: paddle.nn.Layer, names: Sequence[str], shape: Sequence[int]) -> str:
    """What decides whether a back end crashes: versions, processor, and the network without its weights' values."""
    parts = [backend.name, backend.versions(), processor(), list(names), list(shape), repr(network),
             [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in network.state_dict().items()]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def processor() -> str:
    """The processor's name and abilities, as far as the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            lines = [line for line, _ in zip(stream, range(40))]
    except OSError:
        return platform.processor() or platform.machine()
    return "".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))


def recall() -> Dict[str, str]:
    """{key: "" for what worked, else why it did not}; empty when nothing is kept or the file is damaged."""
    try:
        found = json.loads(memory_file().read_text(encoding="utf-8"))
        return {str(key): str(value) for key, value in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def remember(key: str, answer: str) -> None:
    """Keep an answer; where nothing can be written, the next command tries again."""
    try:
        memory_file().parent.mkdir(parents=True, exist_ok=True)
        with files.locked(memory_file().with_suffix(".lock")):
            files.write_text(memory_file(), json.dumps({**recall(), key: answer}, indent=1))
    except OSError:
        pass


def run_trial(backend: Type[Backend], folder: Path, threads: int) -> None:
    """Convert what the back end wants converted, and run it on the images in `folder`, if any; TrialFailed says why.

    A child that was interrupted by Ctrl-C interrupts this process too.
    """
    command = [sys.executable, "-m", "passl.inference.trial", backend.name, str(folder), str(threads)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                   "OMP_NUM_THREADS": str(threads)}
    environment.pop("PADDLE_TRAINERS_NUM", None)  # the child is none of a job's processes
    try:
        child = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise TrialFailed(f"did not answer within {SECONDS:.0f} s") from None
    if child.returncode == -signal.SIGINT:
        raise KeyboardInterrupt
    if child.returncode < 0:
        raise TrialFailed(f"ended by {signal.Signals(-child.returncode).name}")
    if child.returncode:
        said = [line for line in child.stdout.decode(errors="replace").splitlines() if line.strip()]
        raise TrialFailed(said[-1].strip() if said else f"ended with status {child.returncode}")


def outputs_of(folder: Path, names: Sequence[str]) -> Mapping[str, np.ndarray]:
    """What the back end gave in the child process, by name."""
    with np.load(folder / OUTPUTS, allow_pickle=False) as found:
        return {name: found[f"arr_{number}"] for number, name in enumerate(names)}


def main(arguments: Sequence[str]) -> None:
    name, folder, threads = arguments
    backend, place = BACKENDS[name], Path(folder)
    if backend.needs_onnx:
        write_onnx(place)
    if (place / IMAGES).exists():
        np.savez(place / OUTPUTS, *backend(place, int(threads))(np.load(place / IMAGES)))


if __name__ == "__main__":
    main(sys.argv[1:])
