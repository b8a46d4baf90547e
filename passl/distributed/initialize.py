"""Reading and checking the launch variables, and joining the job's process group."""
from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import List, Mapping, Optional

from passl.errors import UserError

__all__ = ["Launch", "LaunchError", "check_launch_environment", "initialize", "launched_device"]

SINGLE_LINE = "passl-train -c CONFIG.yaml"
NODE_LINE = "python -m paddle.distributed.launch --nproc_per_node=2 passl-train -c CONFIG.yaml"
CPU_LINE = "python -m paddle.distributed.launch --nproc_per_node=2 passl-train -c CONFIG.yaml -o Global.device=cpu"
HELP = "docs/distributed.md, section 'Launch lines'"


class LaunchError(UserError):
    """The launch variables of this process are missing or contradict each other; the text names them and the remedy."""


@dataclass(frozen=True)
class Launch:
    """This process's place in the job, as the launcher's variables give it."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    endpoints: List[str] = field(default_factory=list)


def _integer(environment: Mapping[str, str], name: str, least: int) -> int:
    text = environment[name]
    if not text.strip().isdecimal() or int(text) < least:
        raise LaunchError(f"launch variable {name}={text!r} must be a whole number of at least {least}; see {HELP}")
    return int(text)


def _foreign_launcher(environment: Mapping[str, str]) -> Optional[str]:
    """What is wrong when another launcher started several processes and Paddle knows nothing of them."""
    if "RANK" in environment and environment.get("WORLD_SIZE", "1") not in ("", "1"):
        return (f"this process was started by torchrun (RANK={environment['RANK']}, "
                f"WORLD_SIZE={environment['WORLD_SIZE']}), which Paddle does not read; start the job with "
                f"`{NODE_LINE}` on GPUs or `{CPU_LINE}` on CPU")
    if "OMPI_COMM_WORLD_RANK" in environment and environment.get("OMPI_COMM_WORLD_SIZE", "1") != "1":
        return (f"this process is one of {environment['OMPI_COMM_WORLD_SIZE']} started by mpirun, which Paddle does "
                f"not read; start one launcher per machine: `{NODE_LINE}`")
    # SLURM_STEP_NUM_TASKS exists only under srun; SLURM_NTASKS alone is also set in a shell inside an allocation,
    # where a single process is what the user asked for.
    if "SLURM_PROCID" in environment and environment.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        return (f"srun started {environment['SLURM_STEP_NUM_TASKS']} tasks (this is task "
                f"{environment['SLURM_PROCID']}), but each would train alone because no PADDLE_* launch variable is "
                "set; submit tools/slurm/pretrain.sbatch, which starts one paddle.distributed.launch per node")
    return None


def check_launch_environment(environment: Optional[Mapping[str, str]] = None) -> Launch:
    """Read the launch variables and refuse a set that would hang or train the wrong thing.

    `environment` defaults to `os.environ`. Returns the process's place in the job; without a launcher that is rank 0
    of 1. LaunchError names the variable at fault, its value and what to do. Imports nothing heavy.
    """
    environment = os.environ if environment is None else environment
    if not environment.get("PADDLE_TRAINERS_NUM"):
        complaint = _foreign_launcher(environment)
        if complaint is None and environment.get("PADDLE_TRAINER_ID", "0") != "0":
            complaint = (f"PADDLE_TRAINER_ID={environment['PADDLE_TRAINER_ID']} is set but PADDLE_TRAINERS_NUM is not; "
                         f"unset it for a single process (`{SINGLE_LINE}`) or start through `{NODE_LINE}`")
        if complaint is not None:
            raise LaunchError(f"{complaint}; see {HELP}")
        return Launch()

    world = _integer(environment, "PADDLE_TRAINERS_NUM", 1)
    if world == 1:
        if environment.get("PADDLE_TRAINER_ID", "0") not in ("", "0"):
            raise LaunchError(f"PADDLE_TRAINER_ID={environment['PADDLE_TRAINER_ID']} but PADDLE_TRAINERS_NUM=1: the "
                              f"only process is rank 0; unset both for a single process (`{SINGLE_LINE}`) or start "
                              f"through `{NODE_LINE}`; see {HELP}")
        return Launch()
    for name in ("PADDLE_TRAINER_ID", "PADDLE_TRAINER_ENDPOINTS", "PADDLE_CURRENT_ENDPOINT"):
        if not environment.get(name):
            raise LaunchError(f"PADDLE_TRAINERS_NUM={world} but {name} is not set; let `{NODE_LINE}` set the "
                              f"variables; see {HELP}")
    rank = _integer(environment, "PADDLE_TRAINER_ID", 0)
    if rank >= world:
        raise LaunchError(f"PADDLE_TRAINER_ID={rank} but PADDLE_TRAINERS_NUM={world}: ranks go from 0 to {world - 1}; "
                          f"give each process its own number; see {HELP}")
    endpoints = environment["PADDLE_TRAINER_ENDPOINTS"].split(",")
    if len(endpoints) != world:
        raise LaunchError(f"PADDLE_TRAINER_ENDPOINTS names {len(endpoints)} processes but PADDLE_TRAINERS_NUM={world}: "
                          f"one host:port for each rank, separated by commas; see {HELP}")
    for position, endpoint in enumerate(endpoints):
        host, _, port = endpoint.rpartition(":")
        if not host or not port.isdigit():
            raise LaunchError(f"PADDLE_TRAINER_ENDPOINTS entry {position} is {endpoint!r}, not host:port; see {HELP}")
    repeated = sorted({endpoint for endpoint in endpoints if endpoints.count(endpoint) > 1})
    if repeated:
        raise LaunchError(f"PADDLE_TRAINER_ENDPOINTS names {repeated[0]} twice. On several nodes this happens when "
                          "every host name resolves to the same address (often 127.0.1.1 in /etc/hosts): map it to the "
                          f"node's own address; see {HELP}")
    current = environment["PADDLE_CURRENT_ENDPOINT"]
    if endpoints[rank] != current:
        raise LaunchError(f"PADDLE_CURRENT_ENDPOINT={current} but entry {rank} (PADDLE_TRAINER_ID) of "
                          f"PADDLE_TRAINER_ENDPOINTS is {endpoints[rank]}; let the launcher set all of them; "
                          f"see {HELP}")
    hosts = [endpoint.rpartition(":")[0] for endpoint in endpoints]
    if environment.get("PADDLE_LOCAL_RANK"):
        local_rank = _integer(environment, "PADDLE_LOCAL_RANK", 0)
    else:
        local_rank = hosts[:rank].count(hosts[rank])
    return Launch(rank, world, local_rank, endpoints)


def _choose_backend(device: str, backend: Optional[str], environment: Mapping[str, str]) -> str:
    wanted = backend or environment.get("PADDLE_DISTRI_BACKEND")
    on_cpu = device.split(":")[0] == "cpu"
    if wanted in (None, "", "auto"):
        return "gloo" if on_cpu else "nccl"
    if wanted not in ("gloo", "nccl"):
        raise LaunchError(f"backend {wanted!r} is not known; choose gloo (CPU) or nccl (GPU)")
    if on_cpu != (wanted == "gloo"):
        raise LaunchError(f"backend {wanted} does not serve Global.device={device}: gloo goes with cpu, nccl with gpu",
                          "change the device or unset PADDLE_DISTRI_BACKEND")
    return wanted


def launched_device(kind: str, environment: Optional[Mapping[str, str]] = None) -> str:
    """`kind` (cpu, gpu, xpu, npu) with the number of the one that the launcher chose for this process: gpu -> gpu:5.

    The launcher puts the position among the *visible* devices in FLAGS_selected_gpus (xpus, npus), which neither the
    number given to --devices nor the local rank need equal; for the only process of a machine it lists all of them,
    and the first is taken. Without a launcher, or on cpu, `kind` comes back as it is.
    """
    environment = os.environ if environment is None else environment
    chosen = environment.get(f"FLAGS_selected_{kind}s") if kind != "cpu" else None
    return f"{kind}:{chosen.split(',')[0].strip()}" if chosen else kind


def initialize(device: str = "cpu", backend: Optional[str] = None) -> Launch:
    """Select the device and, when the launcher started several processes, join them into the process group.

    `device` is cpu, gpu or gpu:N; a bare gpu becomes the one the launcher chose (`launched_device`). `backend` is
    gloo or nccl and by default follows from the device (PADDLE_DISTRI_BACKEND overrides). How long ranks wait for
    each other is the watchdog's business: neither backend has a limit that can be set and that works.
    Calling it again is harmless. LaunchError when the variables do not fit together or Paddle cannot serve the device.
    """
    launch = check_launch_environment()
    import paddle

    kind = device.split(":")[0]
    if kind == "gpu" and not paddle.is_compiled_with_cuda():
        raise LaunchError(f"Global.device={device}, but this Paddle is a CPU build; use -o Global.device=cpu")
    if launch.world_size == 1:
        paddle.set_device(launched_device(device))
        return launch

    backend = _choose_backend(device, backend, os.environ)
    if backend == "nccl" and not os.environ.get("FLAGS_selected_gpus"):
        raise LaunchError(f"FLAGS_selected_gpus is not set: rank {launch.rank} does not know its GPU",
                          f"start with `{NODE_LINE}`")
    # The documented switch: init_parallel_env reads it and has no argument of its own.
    os.environ["PADDLE_DISTRI_BACKEND"] = backend
    paddle.set_device("cpu" if backend == "gloo" else launched_device("gpu"))
    if not paddle.distributed.is_initialized():
        paddle.distributed.init_parallel_env()
    return launch
