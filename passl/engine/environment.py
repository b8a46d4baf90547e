"""Process-wide settings that must be in place before Paddle is imported: threads, oneDNN, FLAGS, seeds."""
from __future__ import annotations

import contextlib
import io
import itertools
import os
import random
import re
import sys
from typing import Any, Mapping, Optional

from passl.errors import UserError


def ranks_on_this_machine() -> int:
    """Processes of the job that share this machine's cores, from the launcher's endpoint list."""
    endpoints = [e for e in os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").split(",") if e]
    own = os.environ.get("PADDLE_CURRENT_ENDPOINT", "").split(":")[0]
    return max(1, sum(endpoint.split(":")[0] == own for endpoint in endpoints))


def available_cores() -> int:
    """Cores this process may use (respects taskset and container CPU sets)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_avx2_on_amd(cpuinfo: str = "/proc/cpuinfo") -> None:
    """Let the MKL inside Paddle use AVX2 on AMD processors, where it chooses slower kernels by itself.

    That MKL (2019, also in Paddle 3.3) chooses by vendor. Telling it makes matrix products 2.6 times and training steps
    2 to 3 times as fast on an AMD EPYC (docs/benchmarks.md). MKL reads the variable at its first product, so this
    belongs before any work of Paddle's. A value the user has set is kept; other vendors' processors are left alone.
    """
    try:
        with open(cpuinfo, encoding="utf-8", errors="replace") as stream:
            first_core = "".join(itertools.takewhile(str.strip, stream))  # the file is slow to make for many cores
    except OSError:
        return  # not Linux
    if ("AuthenticAMD" in first_core or "HygonGenuine" in first_core) and " avx2" in first_core:
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")


def prepare(num_threads: Optional[int] = None, flags: Optional[Mapping[str, Any]] = None, cpu: bool = True) -> int:
    """Set what Paddle reads once, at its import, and return the number of CPU threads chosen.

    Paddle starts with one thread, without oneDNN and, on AMD processors, with MKL's slow kernels (`use_avx2_on_amd`).
    Two threads nearly halve a step on two cores; oneDNN serves exported models, Paddle's eager kernels do not call it.
    Figures: docs/benchmarks.md. Variables the user has set are kept, unless the config says otherwise: `num_threads`
    is Global.num_threads, `flags` Global.flags (FLAGS_* names).
    """
    if num_threads:
        os.environ["OMP_NUM_THREADS"] = str(num_threads)
    else:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // ranks_on_this_machine())))
    if cpu:
        use_avx2_on_amd()
        os.environ.setdefault("FLAGS_use_onednn", "1")  # Paddle 3
        os.environ.setdefault("FLAGS_use_mkldnn", "1")  # Paddle 2.6
    for name, value in (flags or {}).items():
        os.environ[name] = str(int(value) if isinstance(value, bool) else value)
    return int(os.environ["OMP_NUM_THREADS"].split(",")[0])


def import_paddle() -> None:
    """Import Paddle without its warning against several OpenMP threads, which are what a CPU run wants.

    Everything else that is said on the way is passed on.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            import paddle  # noqa: F401
    finally:
        for line in said.getvalue().splitlines():
            if "OMP_NUM_THREADS" not in line:
                print(line, file=sys.stderr)


def set_tf32(allowed: bool) -> None:
    """Let cuBLAS round the inputs of float32 matrix products to TF32's ten bits, which is several times faster, or not.

    Paddle 2.6 allows it by default (GPUs from Ampere on). Paddle 3.3 sets NVIDIA_TF32_OVERRIDE=0, which forbids it
    whatever is set here. Convolutions (cuDNN) are left as Paddle has them. Never run: there was no GPU.
    """
    from paddle.base import core

    if hasattr(core, "set_cublas_switch"):
        core.set_cublas_switch(allowed)


def select_device(name: str, allow_tf32: bool = False, key: str = "Global.device",
                  remedy: str = "-o Global.device=cpu") -> str:
    """Make `name` (auto, cpu, gpu, xpu, npu) Paddle's device and return the kind in use; `set_tf32` on a GPU.

    Of several accelerators it is the one that the launcher chose for this process. key, remedy: how the user has asked
    for a device and can ask for the CPU. ValueError when the installed Paddle has no support for `name`, with the
    remedy.
    """
    import_paddle()
    import paddle

    from passl.distributed import launched_device

    if name == "auto":
        name = "gpu" if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() else "cpu"
    if name == "gpu" and not paddle.is_compiled_with_cuda():
        raise UserError(f"{key} is gpu but the installed Paddle has no CUDA: install paddlepaddle-gpu, or run with "
                        f"{remedy}")
    if name == "gpu" and not paddle.device.cuda.device_count():
        raise UserError(f"{key} is gpu but no GPU is visible: check CUDA_VISIBLE_DEVICES and the driver, or run with "
                        f"{remedy}")
    if name == "gpu":
        set_tf32(allow_tf32)
    paddle.set_device(launched_device(name))
    if name == "gpu":
        try_convolution(remedy)
    return name


def try_convolution(remedy: str) -> None:
    """One small convolution, forward and backward, on the chosen GPU.

    Paddle looks for cuDNN and cuBLAS when they are first needed, and some of its builds do not bring them.
    UserError names the library that is missing and how to install it.
    """
    import paddle

    try:
        images = paddle.ones([1, 3, 8, 8])
        weight = paddle.ones([4, 3, 3, 3])
        weight.stop_gradient = False
        loss = paddle.matmul(paddle.nn.functional.conv2d(images, weight).flatten(1), paddle.ones([144, 1])).sum()
        loss.backward()
        float(weight.grad.sum())
    except Exception as error:  # whatever it is, it would end the first step
        library = re.search(r"lib(cudnn|cublas|cuda|nvrtc|cusolver)\w*\.so[\w.]*", str(error))
        if library is None:
            raise
        cuda, cudnn = paddle.version.cuda(), paddle.version.cudnn()
        package = (f"libcudnn{cudnn.split('.')[0]}" if library[1] == "cudnn" else
                   f"cuda-libraries-{cuda.replace('.', '-')}")
        raise UserError(f"Paddle {paddle.__version__} cannot load {library[0]}, which this build (CUDA {cuda}, cuDNN "
                        f"{cudnn}) takes from the system: with NVIDIA's packages for Debian and Ubuntu it is "
                        f"'apt-get install {package}'. Builds of Paddle that bring their CUDA libraries, also for "
                        f"newer CUDA: https://www.paddlepaddle.org.cn/install/quick. Without a GPU: {remedy}") from None


def seed_everything(*entropy: int) -> None:
    """Seed Paddle, numpy and Python from a tuple of numbers such as (seed, rank, step).

    Called before every step, which makes every random number of a run a function of these numbers: resuming needs no
    generator state.
    """
    import numpy as np
    import paddle

    value = int(np.random.SeedSequence([abs(int(e)) for e in entropy]).generate_state(1)[0])
    paddle.seed(value)
    np.random.seed(value)
    random.seed(value)
