"""Launch variables: what is read, and which clear error an incomplete or contradictory set gives."""
from __future__ import annotations

import subprocess
import sys

import pytest

from passl.distributed import Launch, LaunchError, check_launch_environment, initialize

TWO = {
    "PADDLE_TRAINERS_NUM": "2",
    "PADDLE_TRAINER_ID": "1",
    "PADDLE_TRAINER_ENDPOINTS": "10.0.0.1:6170,10.0.0.2:6170",
    "PADDLE_CURRENT_ENDPOINT": "10.0.0.2:6170",
}


def test_no_launcher_is_one_process():
    assert check_launch_environment({}) == Launch(0, 1, 0, [])
    assert check_launch_environment({"PADDLE_TRAINERS_NUM": "1", "PADDLE_TRAINER_ID": "0"}) == Launch()


def test_a_shell_inside_a_slurm_allocation_is_one_process():
    assert check_launch_environment({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16"}).world_size == 1


def test_variables_are_read():
    endpoints = ["10.0.0.1:6170", "10.0.0.2:6170"]
    assert check_launch_environment(TWO) == Launch(1, 2, 0, endpoints)
    launched = {**TWO, "PADDLE_LOCAL_RANK": "3"}
    assert check_launch_environment(launched) == Launch(1, 2, 3, endpoints)


def test_local_rank_follows_from_the_endpoints():
    variables = {
        "PADDLE_TRAINERS_NUM": "4",
        "PADDLE_TRAINER_ID": "3",
        "PADDLE_TRAINER_ENDPOINTS": "a:1,a:2,b:1,b:2",
        "PADDLE_CURRENT_ENDPOINT": "b:2",
    }
    assert check_launch_environment(variables).local_rank == 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"PADDLE_TRAINER_ID": None}, "PADDLE_TRAINERS_NUM=2 but PADDLE_TRAINER_ID is not set"),
        ({"PADDLE_TRAINER_ENDPOINTS": None}, "PADDLE_TRAINER_ENDPOINTS is not set"),
        ({"PADDLE_CURRENT_ENDPOINT": ""}, "PADDLE_CURRENT_ENDPOINT is not set"),
        ({"PADDLE_TRAINERS_NUM": None}, "PADDLE_TRAINER_ID=1 is set but PADDLE_TRAINERS_NUM is not"),
        ({"PADDLE_TRAINERS_NUM": "two"}, "PADDLE_TRAINERS_NUM='two' must be a whole number of at least 1"),
        ({"PADDLE_TRAINERS_NUM": "0"}, "PADDLE_TRAINERS_NUM='0' must be"),
        ({"PADDLE_TRAINERS_NUM": "1"}, "PADDLE_TRAINER_ID=1 but PADDLE_TRAINERS_NUM=1: the only process is rank 0"),
        ({"PADDLE_TRAINER_ID": "2"}, "ranks go from 0 to 1"),
        ({"PADDLE_TRAINER_ID": "-1"}, "PADDLE_TRAINER_ID='-1' must be"),
        ({"PADDLE_TRAINERS_NUM": "3"}, "names 2 processes but PADDLE_TRAINERS_NUM=3"),
        ({"PADDLE_TRAINER_ENDPOINTS": "10.0.0.1,10.0.0.2:6170"}, "entry 0 is '10.0.0.1', not host:port"),
        ({"PADDLE_TRAINER_ENDPOINTS": "127.0.1.1:6170,127.0.1.1:6170"}, "names 127.0.1.1:6170 twice"),
        ({"PADDLE_CURRENT_ENDPOINT": "10.0.0.1:6170"}, "is 10.0.0.2:6170; let the launcher set"),
    ],
)
def test_contradictions_are_named(change, message):
    variables = {key: value for key, value in {**TWO, **change}.items() if value is not None}
    with pytest.raises(LaunchError, match=message) as caught:
        check_launch_environment(variables)
    assert "docs/distributed.md" in str(caught.value)


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"RANK": "1", "WORLD_SIZE": "4"}, r"torchrun \(RANK=1, WORLD_SIZE=4\).*paddle.distributed.launch"),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}, "mpirun.*one launcher per machine"),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "16"}, "srun started 16 tasks .*task 3.*pretrain.sbatch"),
    ],
)
def test_other_launchers_get_the_right_line(variables, message):
    with pytest.raises(LaunchError, match=message):
        check_launch_environment(variables)


@pytest.mark.parametrize(
    "variables",
    [{"RANK": "0", "WORLD_SIZE": "1"}, {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}],
)
def test_one_process_under_another_launcher_is_fine(variables):
    assert check_launch_environment(variables).world_size == 1


@pytest.mark.parametrize(
    "device, backend, message",
    [("cpu", "nccl", "gloo goes with cpu"), ("cpu", "mpi", "'mpi' is not known; choose gloo")],
)
def test_backend_must_serve_the_device(monkeypatch, device, backend, message):
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PADDLE_DISTRI_BACKEND", raising=False)
    with pytest.raises(LaunchError, match=message):
        initialize(device, backend)


def test_checking_does_not_import_paddle():
    code = "import sys, passl.distributed as d; d.check_launch_environment({}); sys.exit('paddle' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
