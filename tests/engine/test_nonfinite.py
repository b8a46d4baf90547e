"""NaN and infinity in images, layers, losses and gradients: noticed before the weights change, and without a trace."""
import numpy as np
import paddle
import pytest

from passl.distributed import JointFailure
from passl.engine.callbacks import Callback
from tests.engine.runs import assert_same_state, state_of, trainer


def nan_loss(run):
    """From here on every loss is NaN; the returned function ends it."""
    original = run.method.training_step
    run.method.training_step = lambda batch, plan: (original(batch, plan)[0] * float("nan"), {})
    return lambda: setattr(run.method, "training_step", original)


def nan_pixel(run):
    """One pixel of one image is NaN: on a CPU Paddle's ReLU makes it 0, so that the loss stays finite."""
    original = run.method.training_step

    def training_step(batch, plan):
        batch["crops"][0][0, 0, 3, 3] = float("nan")
        return original(batch, plan)

    run.method.training_step = training_step
    return lambda: setattr(run.method, "training_step", original)


def infinite_gradient(run):
    """The gradient of the first weights is infinite, the loss is not."""
    weight = run.method.model.res_model.encoder.conv1.weight
    hook = weight.register_hook(lambda gradient: gradient * float("inf"))
    return hook.remove


def overflowing_layer(run):
    """The trunk's output overflows, and with it the batch norm of the head, which hides it from the loss on a CPU."""
    layer = run.method.model.res_model.encoder
    hook = layer.register_forward_post_hook(lambda _, inputs, output: output * 1e38 * 1e38)
    return hook.remove


FAULTS = [nan_loss, nan_pixel, infinite_gradient, overflowing_layer]


def break_at(run, fault, *steps):
    """Run the fault during these steps; the list returned holds the state before each of them."""
    original, before = run.make_step, []

    def train_step(*arguments):
        if run.step not in steps:
            return original(*arguments)
        before.append(state_of(run))
        end = fault(run)
        try:
            return original(*arguments)
        finally:
            end()

    run.make_step = train_step
    return before


def same_but_for_normalisation(first, second):
    for state in (first, second):
        state.pop("res_model.prototypes.weight")  # re-normalised at every step, to the same unit columns
    assert_same_state(first, second)


@pytest.mark.parametrize("optimizer", ["MomentumLARC", "AdamW"])
@pytest.mark.parametrize("fault", FAULTS)
def test_fault_stops_the_run_with_a_diagnosis_and_a_state_that_resumes(config, fault, optimizer):
    choice = [f"Optimizer.name={optimizer}", "Optimizer.lr.learning_rate=0.01"]
    run = trainer(config, *choice)
    before = break_at(run, fault, 8)  # in the second epoch: the queue is being filled
    with pytest.raises(JointFailure, match=r"became NaN or infinite at step 8 \(epoch 2\)") as failure:
        run.run()
    text = str(failure.value)
    assert "learning rate" in text and f"State saved as {run.folder / 'nonfinite'}, as it was before" in text
    if fault is not nan_loss:
        assert "a gradient became" in text and "not the gradient of res_model." in text
    else:
        assert "the loss became" in text and "all weights are finite, so the forward pass overflowed" in text
    resumed = trainer(config, *choice, f"Global.checkpoint={run.folder / 'nonfinite'}", "Global.max_train_step=11")
    same_but_for_normalisation(before[0], state_of(resumed))
    resumed.run()
    assert resumed.step == 11 and resumed.progress.nonfinite_steps == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_isolated_bad_step_is_left_out_without_a_trace(config, fault):
    run = trainer(config, "Global.max_nonfinite_steps=1", "Global.max_train_step=9")
    before = break_at(run, fault, 7)
    original = run._tell
    after = []

    def tell(event, *arguments):
        if event == "on_step" and arguments[0].step == 7:
            after.append(state_of(run))
            after[0]["position"] = before[0]["position"]
        original(event, *arguments)

    run._tell = tell
    run.run()
    same_but_for_normalisation(before[0], after[0])
    assert run.step == 9 and run.progress.nonfinite_steps == 1


def test_a_step_left_out_is_not_in_the_averages_of_the_epoch(config):
    """Of five steps the third has no loss: the epoch's numbers are those of the other four."""
    steps, epochs = [], []

    class Noting(Callback):
        def on_step(self, record):
            steps.append({"loss": record.loss, **record.values})

        def on_epoch_end(self, epoch, averages):
            epochs.append(averages)

    run = trainer(config, "Global.max_nonfinite_steps=1", "Global.epochs=1")
    run.callbacks.append(Noting())
    break_at(run, nan_loss, 2)
    run.run()
    assert len(steps) == 5 and np.isnan(steps[2].pop("loss")) and steps.pop(2) == {}
    assert set(epochs[0]) == set(steps[0]) >= {"loss", "target_entropy"}
    for name, average in epochs[0].items():
        assert average == pytest.approx(np.mean([step[name] for step in steps]), rel=1e-5), name


def test_more_bad_steps_than_allowed_stop_the_run(config):
    run = trainer(config, "Global.max_nonfinite_steps=1")
    break_at(run, nan_loss, 1, 2)
    with pytest.raises(JointFailure, match="step 2"):
        run.run()


def test_broken_weights_stop_the_run_at_once_and_say_where(config):
    def break_weights(run):
        weight = run.method.model.res_model.encoder.conv1.weight
        weight.set_value(paddle.full_like(weight, float("nan")))
        return lambda: None

    run = trainer(config, "Global.max_nonfinite_steps=5")
    break_at(run, break_weights, 3)
    with pytest.raises(JointFailure, match="weights are already broken, first in res_model.encoder.conv1.weight") as e:
        run.run()
    assert "resume from an older checkpoint" in str(e.value) and run.progress.nonfinite_steps == 1


def test_broken_statistics_do_not_replace_the_last_checkpoint(config):
    run = trainer(config, "Global.save_step_interval=1")
    original = run.method.after_step

    def after_step(step):
        original(step)
        if step == 2:
            run.method.model.res_model.encoder.bn1._mean[0] = float("inf")

    run.method.after_step = after_step
    with pytest.raises(JointFailure, match="bn1._mean of rank 0 .* nothing was saved as latest"):
        run.run()
    assert trainer(config, f"Global.checkpoint={run.folder / 'latest'}").step == 2


def test_scaled_gradients_are_left_to_the_loss_scaler(config):
    run = trainer(config, "Global.max_train_step=2")
    run.precision.scaler = object()
    run.precision.backward = lambda loss: loss.backward()
    stepped = []
    run.precision.step = lambda optimizer: stepped.append(run.step) and False
    run.precision.state_dict = dict
    break_at(run, infinite_gradient, 0, 1)
    run.run()
    assert stepped == [0, 1] and run.progress.nonfinite_steps == 0


def test_norms_tell_which_tensors_are_broken():
    from passl.engine.step import broken

    tensors = [paddle.ones([3]), paddle.to_tensor([1.0, float("nan")]), paddle.to_tensor([float("-inf")]), None]
    assert broken(list(zip("abcd", tensors))) == ["b", "c"] and broken([]) == []
