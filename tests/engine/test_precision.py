"""The order of a mixed-precision step, and what stays fp32. Loss scaling is forced on: Paddle has no autocast on a CPU,
but the level it would run an operator at can be set and read there."""
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle.base import core
from paddle.base.framework import _dygraph_tracer

from passl.engine.precision import LossScaler, Precision
from passl.methods.epoch_labels import EpochLabels
from passl.optim.groups import GroupedOptimizer
from tests.engine.runs import assert_same_state, state_of, trainer
from tests.methods import family


class ScalerSpy(LossScaler):
    """Records the order of calls."""

    def __init__(self, calls, **settings):
        super().__init__(**settings)
        self.calls = calls

    def scale_loss(self, loss):
        self.calls.append("scale")
        return super().scale_loss(loss)

    def unscale(self, parameters):
        self.calls.append("unscale")
        return super().unscale(parameters)

    def update(self, finite):
        self.calls.append("update")
        super().update(finite)


def one_step(scaler, calls=None, factor=1.0, groups=(), name="MomentumLARC", **settings):
    """Weights after one step of a Linear in two parameter groups, and the Precision that made it."""
    paddle.seed(0)
    layer = paddle.nn.Linear(4, 3)
    section = {"name": name, "weight_decay": 0.1, "lr": {"name": "Constant", "learning_rate": 0.5}, **settings,
               "param_groups": [{"name": group} for group in groups]}
    optimizer = GroupedOptimizer(section, list(layer.named_parameters()), 1, 1)
    for inner in optimizer.optimizers:
        inner.step = noting(calls, inner.step)
    precision = Precision(None, "cpu", scaler=scaler)
    output = layer(paddle.ones([2, 4]))
    precision.backward((output ** 2).sum() + factor * (layer.weight.sum() if factor != 1.0 else 0.0))
    skipped = precision.step(optimizer)
    return {name: value.numpy() for name, value in layer.named_parameters()}, precision, skipped


def noting(calls, step):
    def noted():
        if calls is not None:
            calls.append("step")
        step()
    return noted


def initial_weights():
    paddle.seed(0)
    return {name: value.numpy() for name, value in paddle.nn.Linear(4, 3).named_parameters()}


@pytest.mark.parametrize("clip", [None, {"name": "ClipGradByGlobalNorm", "clip_norm": 0.5}])
def test_larc_and_clipping_see_unscaled_gradients(clip):
    calls = []
    scaled, _, skipped = one_step(ScalerSpy(calls), calls, grad_clip=clip)
    plain, _, _ = one_step(None, grad_clip=clip)
    assert calls == ["scale", "unscale", "step", "update"] and skipped is False
    for name, start in initial_weights().items():
        np.testing.assert_allclose(scaled[name], plain[name], rtol=1e-6)
        assert (scaled[name] != start).any()


@pytest.mark.parametrize("groups", [(), ("weight",), ("bias",)])
@pytest.mark.parametrize("name", ["MomentumLARC", "Momentum", "AdamW"])
def test_an_overflow_in_one_group_leaves_out_the_step_of_all(groups, name):
    calls = []
    weights, precision, skipped = one_step(ScalerSpy(calls), calls, factor=np.inf, groups=groups, name=name)
    assert calls == ["scale", "unscale", "update"] and skipped is True
    for name, start in initial_weights().items():
        np.testing.assert_array_equal(weights[name], start)
    assert precision.skipped_steps == 1 and precision.scale() == 32768.0


@pytest.mark.parametrize("settings", [{"use_dynamic_loss_scaling": False}, {"decr_every_n_nan_or_inf": 2}])
def test_a_step_left_out_counts_when_the_scale_does_not_fall(settings):
    _, precision, skipped = one_step(LossScaler(**settings), factor=np.inf)
    assert skipped is True and precision.skipped_steps == 1 and precision.scale() == 65536.0


def test_scale_is_part_of_the_checkpoint():
    _, precision, _ = one_step(LossScaler(), factor=np.inf)
    state = precision.state_dict()
    assert state == {"scaler": {"scale": 32768.0, "incr_count": 0, "decr_count": 0}, "skipped_steps": 1}
    other = Precision(None, "cpu", scaler=LossScaler())
    other.load_state_dict(state)
    assert other.scale() == 32768.0 and other.skipped_steps == 1


def test_a_scaler_is_built_for_float16_alone_and_from_the_config():
    section = {"level": "O1", "GradScaler": {"init_loss_scaling": 8.0}}
    assert Precision(section, "gpu").scale() == 8.0
    assert Precision({**section, "dtype": "bfloat16"}, "gpu").scaler is None
    assert Precision({**section, "level": "O0"}, "gpu").scaler is None


def test_on_a_cpu_the_level_is_named_once_and_fp32_is_run():
    precision = Precision({"level": "O1", "GradScaler": {}}, "cpu")
    assert "FP16.level O1" in precision.note and precision.scaler is None and precision.level == "O0"


# ------------------------------------------------------------------------------------------------ whole runs
def scaled_run(config, monkeypatch, *overrides, overflow_at=2):
    """A run that believes to be on a GPU, so that it scales; one gradient overflows in a step."""
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    run = trainer(config, "FP16.level=O2", "FP16.GradScaler={init_loss_scaling: 256, incr_every_n_steps: 3}",
                  *overrides)
    after_backward = run.method.after_backward

    def overflow(step):
        after_backward(step)
        if step == overflow_at:
            with paddle.no_grad():
                run.method.model.res_model.encoder.conv1.weight.grad.scale_(float("inf"))

    run.method.after_backward = overflow
    return run


@pytest.mark.filterwarnings("ignore:amp_guard can only be enabled")
def test_a_scaled_run_leaves_out_one_step_and_resumes_exactly(config, monkeypatch, caplog):
    caplog.set_level("INFO", "passl")
    straight = scaled_run(config, monkeypatch, "Global.max_train_step=8")
    straight.run()
    assert straight.precision.skipped_steps == 1 and straight.precision.scale() == 256 / 2 * 2
    assert "step 2 left out: its gradients overflowed float16, the loss scale is now 128 (1 so far" in caplog.text
    first = scaled_run(config, monkeypatch, "Global.max_train_step=4", "Global.overwrite=True")
    first.run()
    resumed = scaled_run(config, monkeypatch, "Global.max_train_step=8", f"Global.checkpoint={first.folder / 'latest'}")
    assert resumed.precision.skipped_steps == 1 and resumed.precision.scale() == 128
    resumed.run()
    assert_same_state(state_of(straight), state_of(resumed))
    assert resumed.precision.state_dict() == straight.precision.state_dict()


@pytest.mark.filterwarnings("ignore:amp_guard can only be enabled")
def test_weights_stay_fp32_at_level_o2(config, monkeypatch):
    """Half-precision weights would part from their masters when prototypes are normalised; nor does the scaler expect
    half-precision gradients."""
    def decorate(models, **settings):
        models.astype("float16")

    monkeypatch.setattr(paddle.amp, "decorate", decorate)
    run = scaled_run(config, monkeypatch, overflow_at=None)
    assert {parameter.dtype for parameter in run.method.model.parameters()} == {paddle.float32}


# ------------------------------------------------------------------------------------------------ what stays fp32
@contextmanager
def autocast_level():
    """Paddle's level inside auto_cast on a GPU; on a CPU it changes no type, but everything that leaves it shows."""
    tracer = _dygraph_tracer()
    before = tracer._amp_level, tracer._amp_dtype
    tracer._amp_level, tracer._amp_dtype = core.AmpLevel.O1, "float16"
    try:
        yield
    finally:
        tracer._amp_level, tracer._amp_dtype = before


@pytest.fixture
def levels(monkeypatch):
    """{operator: levels it was called at} of the operators that lie on the way from embedding to loss."""
    from passl.models import heads

    seen = {}

    def noted(name, operator):
        def call(*arguments, **keywords):
            seen.setdefault(name, set()).add(_dygraph_tracer()._amp_level)
            return operator(*arguments, **keywords)

        return call

    functional = paddle.nn.functional
    # The module as the heads see it, so that `linear` there is told from the one in the projection head.
    monkeypatch.setattr(heads, "F", SimpleNamespace(linear=noted("heads.linear", functional.linear),
                                                    normalize=noted("heads.normalize", functional.normalize)))
    for name in ("normalize", "log_softmax", "softmax", "cross_entropy", "one_hot"):
        monkeypatch.setattr(functional, name, noted(name, getattr(functional, name)))
    for name in ("logsumexp", "take_along_axis", "log", "stack"):
        monkeypatch.setattr(paddle, name, noted(name, getattr(paddle, name)))
    return seen


EXPECTED = {
    "SwAV": {"heads.linear", "heads.normalize", "normalize", "log_softmax", "softmax", "one_hot", "logsumexp", "log"},
    "UnMixSwAV": {"heads.linear", "heads.normalize", "normalize", "log_softmax", "softmax", "one_hot", "logsumexp"},
    "DeepClusterV2": {"heads.linear", "normalize", "cross_entropy"},
    "SeLaV2": {"heads.linear", "heads.normalize", "normalize", "cross_entropy"},
    "SeLaV2 soft": {"heads.linear", "heads.normalize", "normalize", "log_softmax"},
    "SeLa": {"heads.linear", "cross_entropy"},
}


@pytest.mark.parametrize("model", EXPECTED)
def test_scores_assignments_and_loss_leave_autocast(model, levels):
    """Three epochs of two steps: the queue fills and is scored, labels are made, prototypes are normalised."""
    method = family.build(model)
    method.train()
    trunk = set()
    method.model.res_model.encoder.register_forward_pre_hook(lambda *_: trunk.add(_dygraph_tracer()._amp_level))
    for epoch in range(family.EPOCHS):
        with autocast_level():
            if method.due_pass(epoch):
                method.on_pass(epoch, partial(family.batches, epoch, dtype="float32"))
            method.on_epoch_start(epoch)
        for batch in family.batches(epoch, dtype="float32"):
            with autocast_level():
                if method.due_pass(epoch):
                    method.on_pass(epoch, partial(family.batches, epoch, dtype="float32"))
                (plan,) = method.plan([batch])
                loss, *_ = method.training_step(batch, plan)
            assert loss.dtype == paddle.float32
            method.after_step(0)
    assert trunk == {core.AmpLevel.O1}  # the stand-in works
    if isinstance(method, EpochLabels):
        levels.pop("stack")  # of embeddings for the bank: a copy
    elif model == "SeLa":
        assert method.optimizations_done
    else:
        assert method.queue.usable
    assert EXPECTED[model] <= set(levels)
    assert {name for name, seen in levels.items() if seen != {core.AmpLevel.O0}} == set()


def test_scores_of_a_split_step_leave_autocast(levels):
    method = family.build("SwAV")
    batches = list(family.batches(0, dtype="float32"))
    with autocast_level():
        method.plan(batches)
    assert levels["heads.linear"] == levels["logsumexp"] == {core.AmpLevel.O0}


def test_losses_of_classifiers_leave_autocast(levels):
    from passl.methods.classify import WeightedSum

    with autocast_level():
        WeightedSum()(paddle.ones([2, 3], "float16"), paddle.to_tensor([0, 1]))
    assert levels == {"log_softmax": {core.AmpLevel.O0}, "take_along_axis": {core.AmpLevel.O0}}


def test_scores_of_stored_embeddings_leave_autocast(levels):
    with autocast_level():
        family.build("SwAV").model.scores(paddle.ones([2, 3, 8]))
    assert levels == {"heads.linear": {core.AmpLevel.O0}}


def test_prototypes_score_half_precision_embeddings_in_fp32():
    from passl.models.heads import prototypes

    assert prototypes(6, 5)(paddle.ones([2, 6], "float16")).dtype == paddle.float32


def test_everything_after_the_projection_head_stays_fp32():
    from passl.models.heads import HeadOptions
    from passl.models.networks import MultiCropNetwork
    from passl.models.resnet import BasicBlock, ResNet

    options = HeadOptions(normalize=True, output_dim=6, nmb_prototypes=5)
    network = MultiCropNetwork(ResNet(BasicBlock, [1, 1, 1, 1], base_channels=4), options)

    class HalfHead(paddle.nn.Layer):  # what the head returns under autocast
        def forward(self, features):
            return paddle.ones([2, 6], "float16")

    network.projection_head = HalfHead()
    embedding, scores = network.project(paddle.ones([2, 32]))
    assert embedding.dtype == scores.dtype == paddle.float32
