"""What is set before a run, with stand-ins for a GPU: none was available."""
import paddle
import pytest
from paddle.base import core

from passl.engine import environment


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
