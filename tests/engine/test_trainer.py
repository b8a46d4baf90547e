"""Whole runs: exact resume, interruption, broken losses, and what is left on disk."""
import json
import signal
from types import SimpleNamespace

import paddle
import pytest

from passl.engine import checkpoint
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


def test_random_numbers_differ_by_step_and_repeat_after_resuming(config):
    def drawn(run):
        numbers, step = [], run.method.training_step

        def training_step(batch, plan):
            numbers.append(paddle.rand([1]).item())
            return step(batch, plan)

        run.method.training_step = training_step
        run.run()
        return numbers

    straight = drawn(trainer(config, "Global.max_train_step=6"))
    assert len(set(straight)) == 6
    trainer(config, "Global.max_train_step=4", "Global.overwrite=True").run()
    latest = config.parent / "output" / "SwAV" / "latest"
    assert drawn(trainer(config, f"Global.checkpoint={latest}", "Global.max_train_step=6")) == straight[4:]


def test_best_stays_at_the_highest_metric(config):
    scores = iter([0.5, 0.7, 0.6])
    run = trainer(config)
    each_epoch = SimpleNamespace(due=lambda epoch, step, at_epoch_end, done: at_epoch_end)
    run.evaluations = [SimpleNamespace(interval=each_epoch, run=lambda method, tell: {"metric": next(scores)},
                                       close=lambda: None)]
    run.run()
    assert (run.folder / "best").resolve() == (run.folder / "epoch_2").resolve()
    assert checkpoint.load(str(run.folder / "latest")).states["best"] == 0.7


def test_number_of_workers_changes_nothing(config, straight_run):
    run = trainer(config, "DataLoader.Train.loader.num_workers=2")
    run.run()
    assert_same_state(straight_run[0], state_of(run))


@pytest.mark.parametrize("optimizer", ["MomentumLARC", "Momentum", "AdamW"])
def test_training_moves_every_weight_and_prototypes_only_after_the_freeze(config, optimizer):
    decay = "Optimizer.weight_decay=0.1"  # must not reach the frozen prototypes either
    run = trainer(config, "Global.epochs=1", f"Optimizer.name={optimizer}", "Optimizer.lr.learning_rate=0.01", decay)
    start = {name: value.numpy().copy() for name, value in run.method.model.named_parameters()}
    prototypes = run.method.model.score_heads()[0].weight
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
