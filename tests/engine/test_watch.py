"""What is said about runs that do not learn: on made curves, once and never on healthy ones, and on a real collapse."""
import logging
import math
from types import SimpleNamespace

import pytest

from passl.engine import watch
from passl.engine.callbacks import StepRecord
from passl.engine.watch import LearningWatch, gentler_crops
from passl.methods.base import Method
from passl.methods.unmix import UnMixSwAV
from tests.engine.runs import trainer

K = 60
LN_K = math.log(K)
MODEL = {"backbone": {"nmb_prototypes": K, "hidden_mlp": 128}, "epsilon": 0.05, "queue_length": 512,
         "epoch_queue_starts": 4, "assignment": "soft"}
DATASET = {"min_scale_crops": [0.14, 0.05], "max_scale_crops": [1.0, 0.14]}


def watched_method(uniform_loss, heads, frozen):
    """A method with what it sets itself, and the defaults of the protocol for the rest."""
    method = Method()
    method.uniform_loss, method.model = uniform_loss, SimpleNamespace(head_sizes=list(heads))
    if frozen is not None:
        method.frozen_steps = frozen
    return method


def watch_curve(caplog, loss, entropy=2.5, steps=1000, start=0, queue_at=None, frozen=31, model=None,
                uniform_loss=LN_K, heads=(K,)):
    """Warnings about a run of 40 epochs of 31 steps whose loss and target entropy are functions of the step."""
    callback = LearningWatch()
    config = {"Model": {**MODEL, **(model or {})}, "Optimizer": {"lr": {"learning_rate": 0.6}},
              "DataLoader": {"Train": {"dataset": DATASET}}}
    loader = SimpleNamespace(dataset=range(4000), global_batch_size=128)
    callback.on_train_start(SimpleNamespace(
        method=watched_method(uniform_loss, heads, frozen), config=config, loader=loader,
        iterations=31, epochs=40, total_steps=40 * 31, step=start))
    value = {True: lambda curve, step: curve(step), False: lambda curve, step: curve}
    with caplog.at_level(logging.WARNING, "passl"):
        caplog.clear()
        for step in range(start, steps):
            statistics = {"target_entropy": value[callable(entropy)](entropy, step)}
            if queue_at is not None:
                statistics["queue_used"] = float(step >= queue_at)
            record = StepRecord(0, 40, 0, 31, step, value[callable(loss)](loss, step), {"default": 0.6}, 128, 0.1, 0.0)
            record.values = statistics
            callback.on_step(record)
    return [message.getMessage() for message in caplog.records]


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    monkeypatch.setattr(watch.LOGGER, "propagate", True)  # set_up of a command turns it off


def healthy(step):
    return LN_K * (0.98 - 0.2 * min(step, 600) / 600) + 0.05 * math.sin(step)


def test_healthy_curves_are_met_with_silence(caplog):
    assert watch_curve(caplog, healthy, queue_at=300) == []
    # Above ln K at first, falling before the prototypes are released.
    assert watch_curve(caplog, lambda step: LN_K * (1.1 - 0.004 * min(step, 50)), frozen=100) == []
    # Every assignment is uniform but predictions are still far from it, as in the first steps of a run.
    assert watch_curve(caplog, lambda step: healthy(step) + 0.5 * (step < 100), LN_K, frozen=310) == []


def test_collapse_is_told_once_with_remedies_the_config_has_not_yet(caplog):
    message, = watch_curve(caplog, lambda step: LN_K + 0.005 * (-1) ** step, LN_K - 0.001, frozen=0)
    assert message.startswith("the run has collapsed: over the last 100 steps the mean loss is 4.094 and the target "
                              "entropy 4.093 nats, with ln 60 = 4.094, so every image")
    assert message.endswith(
        "-o Model.epsilon=0.03, -o Model.freeze_prototypes_epochs=1, "
        "-o DataLoader.Train.dataset.min_scale_crops=[0.3,0.05], -o Model.assignment=hard, "
        "-o Model.backbone.head_batch_norm=False, -o Optimizer.lr.learning_rate=0.3. "
        "docs/troubleshooting.md tells more")
    tried = {"epsilon": 0.02, "assignment": "hard", "backbone": {"nmb_prototypes": 60, "hidden_mlp": 0}}
    message, = watch_curve(caplog, LN_K, LN_K, frozen=0, model=tried)
    assert "epsilon" not in message and "hard" not in message and "head_batch_norm" not in message


@pytest.mark.parametrize("loss, entropy", [(LN_K + 0.02, LN_K), (LN_K, 0.98 * LN_K)])
def test_loss_or_entropy_alone_is_no_collapse(caplog, loss, entropy):
    assert not any("collapsed" in message for message in watch_curve(caplog, loss, entropy, frozen=0))


def test_collapse_after_a_good_start_is_noticed(caplog):
    message, = watch_curve(caplog, lambda step: healthy(step) if step < 500 else LN_K,
                           lambda step: 2.5 if step < 500 else LN_K)
    assert "the run has collapsed" in message


def test_plateau_is_told_once_after_500_steps_and_called_a_plateau(caplog):
    assert watch_curve(caplog, LN_K + 0.1, steps=499, frozen=0) == []
    message, = watch_curve(caplog, LN_K + 0.1, frozen=0)
    assert message.startswith("the loss is on a plateau at ln K after 500 steps") and "not a collapse" in message
    assert "-o Model.epsilon=0.03, -o Model.freeze_prototypes_epochs=1, " in message
    frozen, = watch_curve(caplog, LN_K, frozen=2000)  # a longer freeze is no remedy while they are frozen
    assert "freeze" not in frozen


def test_rise_with_the_queue_is_told_once_with_a_shorter_and_a_later_one(caplog):
    def rising(step): return healthy(step) + (0.3 if step >= 200 else 0.0)  # noqa: E731
    message, = watch_curve(caplog, rising, queue_at=200)
    assert message.startswith("the loss has risen since the queue joined: ")
    assert "-o Model.queue_length=256, -o Model.epoch_queue_starts=8, -o Model.queue_length=0. docs" in message
    assert watch_curve(caplog, rising, queue_at=200, steps=299) == []  # too early to tell
    assert watch_curve(caplog, rising, queue_at=200, start=250) == []  # resumed: nothing known of before
    last, = watch_curve(caplog, rising, queue_at=200, model={"queue_length": 128, "epoch_queue_starts": 30})
    assert ": -o Model.queue_length=0. docs" in last


def test_release_at_ln_k_is_told_once_at_the_release(caplog):
    def late(step): return LN_K if step < 110 else healthy(step)  # noqa: E731
    message, = watch_curve(caplog, late, frozen=93)
    assert message.startswith("the prototypes are released after 93 steps, while the loss is still at ln K: over the "
                              "last 93 the mean loss is 4.094")
    assert message.endswith("-o Model.freeze_prototypes_epochs=6. docs/troubleshooting.md tells more")
    assert watch_curve(caplog, late, frozen=93, start=94) == []  # released before this process started
    assert watch_curve(caplog, late, frozen=0) == [] and watch_curve(caplog, late, frozen=5000) == []


def test_losses_of_several_terms_and_methods_without_prototypes_targets(caplog):
    assert "collapsed" in watch_curve(caplog, 2 * LN_K, LN_K, uniform_loss=2 * LN_K, frozen=0)[0]
    assert watch_curve(caplog, LN_K, LN_K, uniform_loss=None) == []
    backbone = {"type": "resnet10", "base_channels": 2, "hidden_mlp": 4, "output_dim": 4, "nmb_prototypes": 5,
                "normalize": True}
    assert UnMixSwAV(backbone).uniform_loss == pytest.approx(2 * math.log(5))


def test_several_heads_and_a_method_that_freezes_nothing(caplog):
    limit = (math.log(40) + math.log(80)) / 2
    model = {"backbone": {"nmb_prototypes": [40, 80]}}
    message, = watch_curve(caplog, limit, limit, frozen=None, uniform_loss=limit, heads=(40, 80), model=model)
    assert "with mean of ln [40, 80] = 4.035, so every image" in message
    assert "-o Model.freeze_prototypes_epochs=1, " in message and "nmb_prototypes=[" not in message  # 80 images each
    model = {"backbone": {"nmb_prototypes": [400, 60]}}
    limit = (math.log(400) + math.log(60)) / 2
    message, = watch_curve(caplog, limit, limit, frozen=None, uniform_loss=limit, heads=(400, 60), model=model)
    assert "-o Model.backbone.nmb_prototypes=[80,30]" in message


def test_steps_left_out_are_passed_over(caplog):
    assert watch_curve(caplog, lambda step: float("nan") if step % 7 == 0 else healthy(step)) == []


@pytest.mark.parametrize("smallest, largest, expected", [
    ([0.14, 0.05], [1.0, 0.14], "[0.3,0.05]"), ([0.3], [1.0], None), ([0.1], [0.2], None), (None, None, None)])
def test_gentler_crops(smallest, largest, expected):
    assert gentler_crops({"min_scale_crops": smallest, "max_scale_crops": largest}) == expected


def test_a_real_run_that_collapses_says_so(config, monkeypatch, caplog):
    monkeypatch.setattr(watch, "WINDOW", 15)
    run = trainer(config, "Global.epochs=10", "Model.queue_length=0", "Model.freeze_prototypes_niters=0",
                  "Model.epsilon=3.0", "Optimizer.lr.learning_rate=6.0")
    with caplog.at_level(logging.WARNING, "passl"):
        run.run()
    assert sum("the run has collapsed" in message.getMessage() for message in caplog.records) == 1


def test_hard_assignments_do_not_hide_a_collapse(config):
    seen = []
    run = trainer(config, "Global.max_train_step=1", "Model.assignment=hard", "Model.epsilon=100")
    run.callbacks = [type("Spy", (watch.Callback,), {"on_step": lambda self, record: seen.append(record.values)})()]
    run.run()
    assert seen[0]["target_entropy"] == pytest.approx(math.log(6), abs=1e-3) and seen[0]["queue_used"] == 0
