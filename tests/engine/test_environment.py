"""What is set before a run, with stand-ins for GPUs: the device the launcher chose, and how it multiplies."""
import os
import subprocess
import sys

import paddle
import pytest
from paddle.base import core

from passl.config import check, load_config
from passl.distributed import initialize, launched_device
from passl.engine import environment
from passl.engine.session import join
from passl.engine.trainer import Trainer
from passl.errors import UserError

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
    with join(checked, "train", show_config=False):
        selected = list(calls)
        monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: False)  # its network is built on this machine
        Trainer(checked)
    assert set(selected) == {"gpu:5"} and calls == selected


def test_batches_that_all_ranks_share_are_refused(config):
    from passl.findings import refuse
    from passl.preflight.rules import config_findings

    checked = check(load_config(str(config), ["DataLoader.Train.sampler.name=BatchSampler"]))
    assert list(config_findings(checked, 1)) == []
    with pytest.raises(UserError, match="gives each of the 2 processes the same images: use DistributedBatchSampler"):
        refuse(config_findings(checked, 2))


@pytest.mark.parametrize("arguments, expected", [((), False), ((False,), False), ((True,), True)])
def test_matrix_products_on_a_gpu_keep_float32_unless_told_otherwise(monkeypatch, arguments, expected):
    switched, devices = [], []
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(paddle, "set_device", devices.append)
    monkeypatch.setattr(core, "set_cublas_switch", switched.append, raising=False)
    monkeypatch.delenv("PADDLE_LOCAL_RANK", raising=False)
    assert environment.select_device("auto", *arguments) == "gpu"
    assert switched == [expected] and devices == ["gpu"]
    assert environment.select_device("cpu", *arguments) == "cpu" and switched == [expected]  # nothing to switch there


def test_several_threads_are_what_a_cpu_run_wants(repository):
    """Paddle's import warns of them; other words of the import pass."""
    program = ("import sys; from passl.engine import environment; "
               "finder = type('Finder', (), {'find_spec': staticmethod(lambda *a: print('other', file=sys.stderr))}); "
               "sys.meta_path.insert(0, finder); environment.import_paddle()")
    said = subprocess.run([sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "2"}, text=True,
                          cwd=repository, capture_output=True, check=True).stderr
    assert "OMP_NUM_THREADS" not in said and "other" in said


@pytest.mark.parametrize("configured, inherited, expected", [
    (None, None, "3"), (None, "5", "5"), (2, None, "2"), (2, "5", "2")])
def test_the_configured_number_of_threads_wins_over_the_environment(monkeypatch, configured, inherited, expected):
    monkeypatch.setattr(environment, "available_cores", lambda: 6)
    monkeypatch.setenv("PADDLE_TRAINER_ENDPOINTS", "10.0.0.1:1,10.0.0.1:2,10.0.0.2:1")
    monkeypatch.setenv("PADDLE_CURRENT_ENDPOINT", "10.0.0.1:2")
    monkeypatch.setenv("OMP_NUM_THREADS", inherited or "")
    if inherited is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    assert environment.prepare(configured, cpu=False) == int(expected)
    assert environment.os.environ["OMP_NUM_THREADS"] == expected


@pytest.mark.parametrize("vendor, features, inherited, expected", [
    ("AuthenticAMD", "fma avx2", None, "5"), ("HygonGenuine", "avx2 fma", None, "5"),
    ("AuthenticAMD", "fma avx2", "0", "0"),  # the user's word stands
    ("AuthenticAMD", "avx sse4_2", None, None), ("GenuineIntel", "avx2", None, None)])
def test_mkl_is_told_of_avx2_on_amd_processors_only(monkeypatch, tmp_path, vendor, features, inherited, expected):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {features}\n\n"
                                      "processor\t: 1\nvendor_id\t: other avx2\n")
    monkeypatch.delenv("MKL_DEBUG_CPU_TYPE", raising=False)
    if inherited:
        monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", inherited)
    environment.use_avx2_on_amd(str(tmp_path / "cpuinfo"))
    assert environment.os.environ.get("MKL_DEBUG_CPU_TYPE") == expected
    environment.use_avx2_on_amd(str(tmp_path / "missing"))
    assert environment.os.environ.get("MKL_DEBUG_CPU_TYPE") == expected
    environment.os.environ.pop("MKL_DEBUG_CPU_TYPE", None)


@pytest.mark.parametrize("library, package", [("libcudnn.so", "libcudnn8"), ("libcublas.so.11", "cuda-libraries-11-8")])
def test_a_gpu_without_its_libraries_is_told_how_to_get_them(monkeypatch, library, package):
    """The stand-in raises what Paddle 2.6 raises at the first convolution."""
    def fail(*arguments, **options):
        raise RuntimeError(f"(PreconditionNotMet) Cannot load cudnn shared library. The third-party dynamic library "
                           f"({library}) that Paddle depends on is not configured correctly.")

    devices = []
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(paddle, "set_device", devices.append)
    monkeypatch.setattr(paddle.version, "cuda", lambda: "11.8")
    monkeypatch.setattr(paddle.version, "cudnn", lambda: "8.6.0")
    monkeypatch.setattr(environment, "set_tf32", lambda allowed: None)
    assert environment.select_device("auto") == "gpu"  # a convolution that works is no news
    monkeypatch.setattr(paddle.nn.functional, "conv2d", fail)
    message = rf"cannot load {library}.*apt-get install {package}.*install/quick.*--device cpu"
    with pytest.raises(UserError, match=message):
        environment.select_device("auto", key="--device", remedy="--device cpu")
    assert environment.select_device("cpu") == "cpu"
    monkeypatch.setattr(paddle.nn.functional, "conv2d", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # another fault keeps its own words
        environment.select_device("auto")


def test_the_gpu_extra_holds_numpy_back():
    from pathlib import Path

    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'gpu = ["paddlepaddle-gpu>=2.6.2", "numpy<2"]' in text
