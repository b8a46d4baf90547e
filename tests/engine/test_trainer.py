"""Whole runs: exact resume, interruption, broken losses, and what is left on disk."""
import json
import signal

import paddle
import pytest

from passl.engine.trainer import NonFiniteLoss
from tests.engine.runs import assert_same_state, state_of, trainer


def losses(run):
    return [json.loads(line)["loss"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stop_at", [5, 7, 12], ids=["epoch end", "mid epoch, queue filling", "mid epoch, queue full"])
def test_resume_equals_the_uninterrupted_run(config, straight_run, stop_at):
    trainer(config, f"Global.max_train_step={stop_at}").run()
    resumed = trainer(config, f"Global.checkpoint={config.parent / 'output' / 'SwAV' / 'latest'}")
    assert resumed.step == stop_at
    resumed.run()
    expected, expected_losses = straight_run
    assert_same_state(expected, state_of(resumed))
    assert losses(resumed) == expected_losses


def test_number_of_workers_changes_nothing(config, straight_run):
    run = trainer(config, "DataLoader.Train.loader.num_workers=2")
    run.run()
    assert_same_state(straight_run[0], state_of(run))


@pytest.mark.parametrize("optimizer", ["MomentumLARC", "Momentum", "AdamW"])
def test_training_moves_every_weight_and_prototypes_only_after_the_freeze(config, optimizer):
    decay = "Optimizer.weight_decay=0.1"  # must not reach the frozen prototypes either
    run = trainer(config, "Global.epochs=1", f"Optimizer.name={optimizer}", "Optimizer.lr.learning_rate=0.01", decay)
    start = {name: value.numpy().copy() for name, value in run.method.model.named_parameters()}
    prototypes = run.method.model.prototype_parameters()[0]
    run.method.model.normalize_prototypes()
    frozen = prototypes.numpy().copy()
    seen = []
    step = run.method.after_step
    run.method.after_step = lambda number: (seen.append(abs(prototypes.numpy() - frozen).max()), step(number))
    run.run()
    assert max(seen[:3]) < 1e-6 < seen[3]  # freeze_prototypes_niters: 3, up to the re-normalisation of every step
    for name, value in run.method.model.named_parameters():
        assert (value.numpy() != start[name]).any(), name


def test_first_signal_finishes_the_step_saves_and_tells_how_to_resume(config, straight_run, signals_restored):
    run = trainer(config)
    original = run.method.training_step

    def interrupted(batch, plan):
        if run.step == 6:
            signal.raise_signal(signal.SIGTERM)
        return original(batch, plan)

    run.method.training_step = interrupted
    run.run()
    assert run.step == 7
    resumed = trainer(config, f"Global.checkpoint={run.folder / 'latest'}")
    resumed.run()
    assert_same_state(straight_run[0], state_of(resumed))


def nan_at(run, *steps):
    original = run.method.training_step

    def training_step(batch, plan):
        loss, statistics = original(batch, plan)
        return (loss * float("nan") if run.step in steps and training_step.armed else loss), statistics

    training_step.armed = True
    run.method.training_step = training_step


def test_nan_loss_stops_with_diagnosis_and_saved_state(config):
    run = trainer(config)
    nan_at(run, 4)
    with pytest.raises(NonFiniteLoss, match=r"step 4 \(epoch 1\); all weights are finite.*nonfinite") as failure:
        run.run()
    assert "learning rate" in str(failure.value)
    resumed = trainer(config, f"Global.checkpoint={run.folder / 'nonfinite'}")
    assert resumed.step == 4 and all(bool(paddle.isfinite(p).all()) for p in resumed.method.model.parameters())


def test_isolated_nan_steps_are_left_out_without_a_trace(config):
    run = trainer(config, "Global.max_nonfinite_steps=1", "Global.max_train_step=8")
    nan_at(run, 6)
    before = {}
    original = run._train_step

    def train_step(batches, interrupt):
        if run.step == 6:
            before.update(state_of(run))
        result = original(batches, interrupt)
        if run.step == 6:
            after = state_of(run)
            normalised = "res_model.prototypes.weight"  # re-normalised at every step, to the same unit columns
            for state in (before, after):
                state.pop(normalised)
            assert_same_state(before, after)
        return result

    run._train_step = train_step
    run.run()
    assert run.step == 8 and run.nonfinite_steps == 1


def test_more_nan_steps_than_allowed_stop_the_run(config):
    run = trainer(config, "Global.max_nonfinite_steps=1")
    nan_at(run, 1, 2)
    with pytest.raises(NonFiniteLoss, match="step 2"):
        run.run()
