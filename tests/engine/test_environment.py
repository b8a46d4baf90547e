"""The GPU of a process is the one the launcher chose, selected before NCCL joins and not changed after; stand-ins."""
import paddle
import pytest

from passl.cli.run import open_run
from passl.config import check, load_config
from passl.distributed import initialize, launched_device
from passl.engine import environment
from passl.engine.trainer import Trainer

LAUNCHED = ("PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ID", "PADDLE_LOCAL_RANK", "FLAGS_selected_gpus")


@pytest.fixture
def calls(monkeypatch):
    """What is done with devices and the process group, in order, on a machine with eight GPUs that nobody has."""
    done = []
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(paddle, "set_device", done.append)
    monkeypatch.setattr(paddle.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(paddle.distributed, "init_parallel_env", lambda: done.append("join"))
    return done


@pytest.mark.parametrize("kind, flags, device", [
    ("gpu", {"FLAGS_selected_gpus": "5"}, "gpu:5"),
    ("gpu", {"FLAGS_selected_gpus": "2,3"}, "gpu:2"),  # the only process of a machine is given all of them
    ("gpu", {"PADDLE_LOCAL_RANK": "1"}, "gpu"),
    ("gpu", {}, "gpu"),
    ("xpu", {"FLAGS_selected_xpus": "3", "FLAGS_selected_gpus": "1"}, "xpu:3"),
    ("cpu", {"FLAGS_selected_cpus": "1"}, "cpu"),
])
def test_the_launcher_chooses(kind, flags, device):
    assert launched_device(kind, flags) == device


def test_second_of_two_ranks_on_gpus_4_and_5(calls, monkeypatch):
    endpoints = "127.0.0.1:6170,127.0.0.1:6171"
    for name, value in {"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": "1", "PADDLE_LOCAL_RANK": "1",
                        "PADDLE_TRAINER_ENDPOINTS": endpoints, "PADDLE_CURRENT_ENDPOINT": endpoints.split(",")[1],
                        "FLAGS_selected_gpus": "5"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PADDLE_DISTRI_BACKEND", "auto")
    initialize(environment.select_device("auto"))
    assert calls == ["gpu:5", "gpu:5", "join"]


def test_a_run_keeps_the_device_that_was_selected(calls, config, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "1")
    monkeypatch.setenv("PADDLE_LOCAL_RANK", "0")
    monkeypatch.setenv("FLAGS_selected_gpus", "5,6")
    checked = check(load_config(str(config), ["Global.device=gpu"]))
    with open_run(checked, "train", save_config=False):
        selected = list(calls)
        monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: False)  # its network is built on this machine
        run = Trainer(checked)
    assert set(selected) == {"gpu:5"} and calls == selected
    assert run.device == paddle.get_device().split(":")[0]


def test_batches_that_all_ranks_share_are_refused(config):
    from passl.engine.build import RunError, refuse_unsupported

    checked = check(load_config(str(config), ["DataLoader.Train.sampler.name=BatchSampler"]))
    refuse_unsupported(checked, 1)
    with pytest.raises(RunError, match="gives each of the 2 processes the same images: use DistributedBatchSampler"):
        refuse_unsupported(checked, 2)
