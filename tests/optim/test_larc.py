"""MomentumLARC against apex's LARC around torch's SGD, including its treatment of zero norms."""
import numpy as np
import paddle
import pytest

from passl.optim.optimizers import MomentumLARC
from tests.golden.networks import load

GOLDEN = load("reference_functions.json")["larc_sgd"]


def parameter(values):
    tensor = paddle.create_parameter([len(values)], "float32")
    tensor.set_value(np.asarray(values, "float32"))
    return tensor


def test_trajectory_equals_reference():
    w, b, frozen, zero = (parameter(v) for v in (GOLDEN["w0"], GOLDEN["b0"], [1, 1], GOLDEN["z0"]))
    optimizer = MomentumLARC([w, b, frozen, zero], GOLDEN["lr"], GOLDEN["momentum"], GOLDEN["wd"], GOLDEN["trust"])
    for expected in GOLDEN["trajectory"]:
        gradients = [(w, GOLDEN["grad_w"]), (b, GOLDEN["grad_b"]), (zero, [0.0, 0.0])]
        loss = sum((p * paddle.to_tensor(g, "float32")).sum() for p, g in gradients)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        np.testing.assert_allclose(w.numpy(), expected["w"], atol=1e-6)
        np.testing.assert_allclose(b.numpy(), expected["b_zero_init"], atol=1e-6)
        np.testing.assert_array_equal(frozen.numpy(), expected["f_grad_none"])
        np.testing.assert_array_equal(zero.numpy(), expected["z_zero_grad"])


@pytest.mark.parametrize("learning_rate, expected_rate", [(0.5, 0.001 * 5 / (1 + 1e-8) / 0.5), (1e-4, 1.0)])
def test_clip_bounds_the_rate_by_the_learning_rate(learning_rate, expected_rate):
    w = parameter([3, 4])
    (w * paddle.to_tensor([0.6, -0.8])).sum().backward()
    MomentumLARC([w], learning_rate, 0.9, 0.0, 0.001, clip=True).step()
    np.testing.assert_allclose(w.numpy(), np.array([3, 4]) - learning_rate * expected_rate * np.array([0.6, -0.8]),
                               rtol=1e-6)


def test_clip_at_the_start_of_a_warm_up_from_zero():
    w = parameter([3, 4])
    optimizer = MomentumLARC([w], 0.0, 0.9, 0.0, 0.001, clip=True)
    for learning_rate, expected in ((0.0, [3, 4]), (1e-4, [3 - 1e-4 * 1.9 * 0.6, 4 + 1e-4 * 1.9 * 0.8])):
        (w * paddle.to_tensor([0.6, -0.8])).sum().backward()
        optimizer.set_lr(learning_rate)
        optimizer.step()  # at 0 nothing moves, but the gradient enters the momentum buffer unscaled
        optimizer.clear_grad()
        np.testing.assert_allclose(w.numpy(), expected, rtol=1e-6)
