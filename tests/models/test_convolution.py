"""The convolution of the trunks equals Paddle's own, on every path."""
import itertools

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from passl.models.convolution import Convolution


@pytest.fixture
def float64():
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype("float32")


def both(layer, x):
    """((output, gradient of x, gradient of the weight) of the layer, the same of Paddle's convolution)."""
    found = []
    for function in (layer, lambda x: F.conv2d(x, layer.weight, stride=layer.stride, padding=layer.padding)):
        layer.clear_gradients()
        x = paddle.to_tensor(x, stop_gradient=False)
        y = function(x)
        (y * paddle.cos(paddle.arange(y.size, dtype=y.dtype)).reshape(y.shape)).sum().backward()
        found.append([value.numpy() for value in (y, x.grad, layer.weight.grad)])
    return found


@pytest.mark.parametrize("kernel, stride, padding", [
    (1, 1, 0), (1, 2, 0), (1, 2, 1), (2, 1, 0), (2, 2, 1), (3, 1, 0), (3, 1, 1), (3, 2, 1), (3, 1, 2), (3, 3, 2),
    (7, 2, 3)])
def test_one_product_equals_the_plain_convolution(kernel, stride, padding, float64, monkeypatch):
    layer = Convolution(5, 6, kernel, stride, padding)
    layer.most_positions = 1000
    used = []
    monkeypatch.setattr(layer, "_one_product", lambda *arguments: used.append(1) or
                        Convolution._one_product(layer, *arguments))
    sizes = [size for size in itertools.product(range(1, 7), repeat=2) if min(size) + 2 * padding >= kernel]
    for height, width in sizes:
        x = np.random.default_rng(height).normal(size=(3, 5, height, width))
        for found, expected in zip(*both(layer, x)):
            np.testing.assert_allclose(found, expected, atol=1e-12)
    assert len(used) == len(sizes) >= 16


def test_used_for_small_maps_of_many_channels_in_training(monkeypatch):
    used = []
    monkeypatch.setattr(Convolution, "_one_product", lambda self, x, *size: used.append(size) or x)
    wide, narrow = Convolution(512, 512, 3, 1, 1), Convolution(32, 32, 3, 1, 1)
    for layer, side, expected in ((wide, 3, True), (wide, 7, False), (narrow, 1, True), (narrow, 2, False)):
        layer(paddle.zeros([2, layer.weight.shape[1], side, side]))
        assert used == ([(side, side)] if expected else [])
        used.clear()
    wide.eval()
    wide(paddle.zeros([2, 512, 3, 3]))
    assert not used


def test_kaiming_normal_weights():
    weight = Convolution(64, 128, 3).weight.numpy()
    assert weight.std() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02) and abs(weight.mean()) < 0.001
