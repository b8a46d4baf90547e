"""The Slurm scripts derive the launch arguments from the allocation; scontrol and srun are stand-ins."""
from __future__ import annotations

import os
import subprocess

import pytest

from tests.distributed.ranks import REPOSITORY

SCRIPTS = REPOSITORY / "tools" / "slurm"


def stand_in(folder, name, text):
    program = folder / name
    program.write_text(f"#!/bin/bash\n{text}\n")
    program.chmod(0o755)


def bash(folder, command, **variables):
    stand_in(folder, "scontrol", 'if [[ $1 == show ]]; then printf "node09\\nnode10\\n"; else echo "scontrol $*"; fi')
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder), **variables}
    return subprocess.run(
        ["bash", "-c", command], env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=20
    )


def allocation(**changes):
    variables = {
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "node[09-10]",
        "SLURM_NNODES": "2",
        "SLURM_TASKS_PER_NODE": "8(x2)",
        "SLURM_GPUS_ON_NODE": "8",
        **changes,
    }
    return {name: value for name, value in variables.items() if value is not None}


def arguments(folder, **changes):
    return bash(folder, f"source {SCRIPTS}/launch_arguments.sh && slurm_launch_arguments", **allocation(**changes))


@pytest.mark.parametrize("form, tasks", [("8(x4)", "8"), ("12", "12"), ("16(x32)", "16"), ("1", "1")])
def test_tasks_per_node(tmp_path, form, tasks):
    run = bash(tmp_path, f"source {SCRIPTS}/launch_arguments.sh && slurm_tasks_per_node '{form}'")
    assert (run.stdout.strip(), run.returncode) == (tasks, 0)


@pytest.mark.parametrize("form", ["8(x3),4", "2,1", "", "many"])
def test_unequal_nodes_are_refused(tmp_path, form):
    run = bash(tmp_path, f"source {SCRIPTS}/launch_arguments.sh && slurm_tasks_per_node '{form}'")
    assert run.returncode == 1 and f"SLURM_TASKS_PER_NODE='{form}'" in run.stderr and "--ntasks-per-node" in run.stderr


def test_arguments_on_gpus(tmp_path):
    expected = "--nnodes=2 --master=node09:23456 --nproc_per_node=8"
    assert arguments(tmp_path).stdout.strip() == expected


@pytest.mark.parametrize("visible, selected", [("4,5", ["0", "1"]), ("GPU-8f2a,GPU-c01d", ["0", "1"])])
def test_the_launcher_takes_the_visible_gpus_in_their_order(tmp_path, monkeypatch, visible, selected):
    from paddle.distributed.launch.context.device import Device

    run = arguments(tmp_path, SLURM_TASKS_PER_NODE="2(x2)", CUDA_VISIBLE_DEVICES=visible)
    assert run.stdout.split()[-1] == "--nproc_per_node=2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device = Device.parse_device()
    assert device.get_selected_devices(None) == selected  # what it puts in FLAGS_selected_gpus, one a rank
    with pytest.raises(ValueError):
        device.get_selected_devices("0,1")  # what --devices=0,1 comes to


def test_twelve_ranks_a_node(tmp_path):
    assert arguments(tmp_path, SLURM_TASKS_PER_NODE="12(x2)").stdout.strip().endswith("--nproc_per_node=12")


def test_arguments_on_cpu(tmp_path):
    run = arguments(tmp_path, SLURM_GPUS_ON_NODE=None, SLURM_TASKS_PER_NODE="4(x2)", PASSL_MASTER_PORT="29600")
    assert run.stdout.strip() == "--nnodes=2 --master=node09:29600 --nproc_per_node=4"


def test_outside_an_allocation(tmp_path):
    run = arguments(tmp_path, SLURM_JOB_ID=None)
    assert run.returncode == 1 and "submit this file with sbatch" in run.stderr


@pytest.mark.parametrize("status, requeued", [(0, False), (1, False), (75, True), (137, True)])
def test_batch_script(tmp_path, status, requeued):
    stand_in(tmp_path, "srun", f'echo "srun $*"; exit {status}')
    run = bash(
        tmp_path,
        f"bash {SCRIPTS}/pretrain.sbatch -c some.yaml -o Global.seed=3",
        **allocation(SLURM_CPUS_PER_TASK="6", SLURM_SUBMIT_DIR=str(REPOSITORY)),
    )
    assert run.returncode == status, run.stderr
    line = next(line for line in run.stdout.splitlines() if line.startswith("srun "))
    assert "--ntasks=2 --ntasks-per-node=1 --cpus-per-task=48" in line
    assert line.endswith(
        "python -m paddle.distributed.launch --nnodes=2 --master=node09:23456 --nproc_per_node=8 "
        "--log_dir=logs/123456 passl-train -o Global.checkpoint=auto -c some.yaml -o Global.seed=3"
    )
    assert ("scontrol requeue 123456" in run.stdout) is requeued


def test_batch_script_gives_up_after_some_restarts(tmp_path):
    stand_in(tmp_path, "srun", "exit 75")
    run = bash(tmp_path, f"bash {SCRIPTS}/pretrain.sbatch", **allocation(SLURM_RESTART_COUNT="3"))
    assert run.returncode == 75 and "requeue" not in run.stdout


def test_time_limit_lets_the_ranks_save_and_requeues_once(tmp_path):
    # srun waits until scancel signals it, then takes a second, as ranks do that finish their step and save.
    stand_in(tmp_path, "srun", f"""
trap 'sleep 1; echo "ranks saved"; exit 15' TERM
echo $$ > {tmp_path}/srun.pid
kill -USR1 "$BATCH"
for _ in $(seq 100); do sleep 0.1; done
exit 75""")
    stand_in(tmp_path, "scancel", f'echo "scancel $*"; kill -TERM "$(cat {tmp_path}/srun.pid)"')
    run = bash(tmp_path, f"export BATCH=$$; exec bash {SCRIPTS}/pretrain.sbatch -c some.yaml", **allocation())
    assert run.returncode == 15, run.stderr
    happened = [line for line in run.stdout.splitlines() if line.startswith(("scancel", "ranks", "scontrol"))]
    assert happened == ["scancel --signal=TERM 123456", "ranks saved", "scontrol requeue 123456"]
