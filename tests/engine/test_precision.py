"""The order of a mixed-precision step, checked with a stand-in scaler: no GPU is at hand in CI, and on a CPU Paddle's
own scaler does nothing."""
import numpy as np
import paddle
import pytest

from passl.engine.precision import Precision
from passl.optim.groups import GroupedOptimizer


class ScalerSpy:
    """Scales by 8, records the order of calls, and reports an overflow when told to."""

    def __init__(self, overflow=False):
        self.calls, self.factor, self.overflow = [], 8.0, overflow

    def scale(self, loss):
        self.calls.append("scale")
        return loss * self.factor

    def unscale_(self, optimizer):
        self.calls.append("unscale")
        with paddle.no_grad():
            for parameter in optimizer._parameter_list:
                parameter.grad.multiply_(paddle.to_tensor(1 / self.factor))

    def step(self, optimizer):
        self.calls.append("step")
        if not self.overflow:
            optimizer.step()

    def update(self):
        self.calls.append("update")
        self.factor /= 2 if self.overflow else 1

    def state_dict(self):
        return {"scale": np.array([self.factor]), "incr_count": 3}

    def load_state_dict(self, state):
        self.factor = float(np.asarray(state["scale"]).item())


def one_step(scaler, clip=None):
    paddle.seed(0)
    layer = paddle.nn.Linear(4, 3)
    section = {"name": "MomentumLARC", "weight_decay": 0.1, "lr": {"name": "Constant", "learning_rate": 0.5}}
    if clip:
        section["grad_clip"] = {"name": "ClipGradByGlobalNorm", "clip_norm": clip}
    optimizer = GroupedOptimizer(section, list(layer.named_parameters()), 1, 1)
    precision = Precision(None, "cpu", scaler=scaler)
    precision.backward((layer(paddle.ones([2, 4])) ** 2).sum())
    precision.step(optimizer)
    return {name: value.numpy() for name, value in layer.named_parameters()}, precision


@pytest.mark.parametrize("clip", [None, 0.5])
def test_larc_and_clipping_see_unscaled_gradients(clip):
    spy = ScalerSpy()
    scaled, _ = one_step(spy, clip)
    plain, _ = one_step(None, clip)
    assert spy.calls == ["scale", "unscale", "step", "update"]
    for name in plain:
        np.testing.assert_allclose(scaled[name], plain[name], rtol=1e-6)


def test_overflow_leaves_the_step_out_and_is_counted():
    weights, precision = one_step(ScalerSpy(overflow=True))
    paddle.seed(0)
    untouched = {name: value.numpy() for name, value in paddle.nn.Linear(4, 3).named_parameters()}
    for name in weights:
        np.testing.assert_array_equal(weights[name], untouched[name])
    assert precision.skipped_steps == 1 and precision.scale() == 4.0


def test_scale_is_part_of_the_checkpoint():
    _, precision = one_step(ScalerSpy(overflow=True))
    state = precision.state_dict()
    assert state == {"scaler": {"scale": 4.0, "incr_count": 3}, "skipped_steps": 1}
    other = Precision(None, "cpu", scaler=ScalerSpy())
    other.load_state_dict(state)
    assert other.scale() == 4.0 and other.skipped_steps == 1


def test_on_a_cpu_the_level_is_named_once_and_fp32_is_run():
    precision = Precision({"level": "O1", "GradScaler": {}}, "cpu")
    assert "FP16.level O1" in precision.note and precision.scaler is None


def test_everything_after_the_projection_head_stays_fp32():
    from passl.models.multi_crop import MultiCropNetwork
    from passl.models.resnet import BasicBlock, ResNet

    network = MultiCropNetwork(ResNet(BasicBlock, [1, 1, 1, 1], base_channels=4), True, 0, 6, 5)

    class HalfHead(paddle.nn.Layer):  # what the head returns under autocast
        def forward(self, features):
            return paddle.ones([2, 6], "float16")

    network.projection_head = HalfHead()
    embedding, scores = network.project(paddle.ones([2, 32]))
    assert embedding.dtype == scores.dtype == paddle.float32
