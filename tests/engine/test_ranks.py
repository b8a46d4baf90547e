"""Whole runs over several real processes: equal to one process on the joined batch; stopped and resumed exactly."""
from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import paddle
import pytest

from passl import distributed
from tests.distributed.ranks import run_ranks
from tests.engine.runs import assert_same_state, state_of, trainer, write_config, write_images

pytestmark = [pytest.mark.dist, pytest.mark.slow]

IMAGES = 24  # whole batches for 1, 2 and 3 ranks


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, write_images(tmp_path / "images", IMAGES))


def separate(config, name, *overrides, **more):
    """A Trainer that writes to a folder of its own."""
    pairs = [f"Global.output_dir={Path(config).parent / name}", *overrides]
    return trainer(Path(config), *pairs, *(f"{key}={value}" for key, value in more.items()))


def watch(run):
    """Make `run` note, per step: sample indices, mean loss, gradients, and afterwards the whole state."""
    notes = {"index": [], "loss": [], "gradient": [], "state": []}
    step, backward = run.make_step, run.method.after_backward

    def after_backward(number):
        backward(number)  # drops the gradient of frozen prototypes
        notes["gradient"].append({name: parameter.grad.numpy() for name, parameter in
                                  run.method.model.named_parameters() if not parameter.stop_gradient})

    def train_step(batches, *place):
        notes["index"].append(np.concatenate([batch["index"].numpy() for batch in batches]))
        with distributed.collective_counter() as count:
            result = step(batches, *place)
        notes["collectives"] = count.calls
        notes["loss"].append(result[0])
        notes["state"].append({name: tensor.numpy() for name, tensor in run.method.model.state_dict().items()})
        return result

    run.method.after_backward, run.make_step = after_backward, train_step
    return notes


def flat(prefix, notes):
    """Nested notes as the flat dict of arrays that a rank can hand back."""
    if isinstance(notes, dict):
        items = notes.items()
    elif isinstance(notes, list):
        items = enumerate(notes)
    else:
        return {prefix: np.asarray(notes)}
    return {key: value for name, inner in items for key, value in flat(f"{prefix}/{name}", inner).items()}


# ------------------------------------------------------------------------------- n ranks equal the joined batch
# A queue that fills in epoch 1 and is used from epoch 2 on, prototypes frozen for 3 of the 8 steps. Plain momentum
# would move frozen prototypes by weight decay where LARC leaves them alone.
JOINED = ["Global.epochs=4", "Model.queue_length=24", "Model.epoch_queue_starts=1", "Global.save_interval=4"]
GLOBAL_BATCH = 12
VARIANTS = {
    "plain": [],
    "accumulation": ["Global.accum_steps=2"],
    "recompute, momentum": ["DistributedStrategy.recompute={layerlist_interval: 1}", "Optimizer.name=Momentum",
                            "Optimizer.weight_decay=0.1", "Optimizer.lr.learning_rate=0.01"],
    "a step left out": ["Global.accum_steps=2", "Global.max_nonfinite_steps=1"],
}
PASSES = {"plain": (1, 1), "accumulation": (4, 2)}  # forward and backward passes of a step


def break_last_rank(run):
    """Make the loss of the last rank NaN in the first of the two micro-batches of step 5."""
    original, calls = run.method.training_step, []

    def training_step(batch, plan):
        calls.append(run.step)
        loss, statistics, _ = original(batch, plan)
        is_broken = calls[-1] == 5 and calls.count(5) == 1 and distributed.rank() == distributed.world_size() - 1
        return loss * float("nan") if is_broken else loss, statistics

    run.method.training_step = training_step


def train_variants(config, names):
    """Every step of the named variants on this rank, whose share is 1/n of the global batch.

    In float64: a network this deep on batches this small multiplies rounding errors by a thousand in each step.
    """
    result = {}
    for name in names:
        overrides = VARIANTS[name]
        size = GLOBAL_BATCH // distributed.world_size()
        paddle.set_default_dtype("float64")
        run = separate(config, f"{name}{distributed.world_size()}", *JOINED, *overrides,
                       f"DataLoader.Train.sampler.batch_size={size}")
        paddle.set_default_dtype("float32")
        normalize = run.feed.normalize
        run.feed.normalize = lambda pixels, normalize=normalize: normalize(pixels).astype("float64")
        if name == "a step left out":
            break_last_rank(run)
        notes = watch(run)
        run.run()
        notes["queue"] = run.method.queue.entries.numpy()
        issued = [call for call, _ in notes.pop("collectives")]
        result.update(flat(name, notes))
        result[f"collectives/{name}"] = [issued.count("all_gather"), issued.count("all_reduce"), len(issued)]
    return result


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """(config, what one process does with it)"""
    folder = tmp_path_factory.mktemp("joined")
    config = write_config(folder, write_images(folder / "images", IMAGES))
    return config, train_variants(str(config), list(VARIANTS))


# Three ranks show that nothing counts on a power of two; each rank more costs seconds, so they run two variants only.
@pytest.mark.parametrize("world_size, names", [(2, list(VARIANTS)), (3, ["plain", "a step left out"])],
                         ids=["2 ranks", "3 ranks"])
def test_training_equals_one_process_on_the_joined_batch(one_process, tmp_path, world_size, names):
    config, everything = one_process
    expected = {key: value for key, value in everything.items()
                if (key.split("/")[1] if key.startswith("collectives/") else key.split("/")[0]) in names}
    runs = run_ranks(train_variants, world_size, tmp_path, timeout=600, config=str(config), names=names)
    interleaved = [key for key in expected if "/index/" in key or key.endswith("/queue")]
    for key in interleaved:  # rank r holds every n-th row of the joined batch, from row r
        axis = 1 if "/index/" in key else 2
        joined = np.stack([done.result[key] for done in runs], axis=axis).reshape(expected[key].shape)
        np.testing.assert_allclose(joined, expected[key], atol=1e-9, err_msg=key)
    gradients = [key for key in expected if "/gradient/" in key]
    assert sum("prototypes" in key for key in gradients) == 5 * len(names) - 1  # 8 steps, frozen for 3, one left out
    assert [key for key in expected if "/loss/" in key and np.isnan(expected[key])] == ["a step left out/loss/5"]
    counts = [key for key in expected if key.startswith("collectives/")]
    for done in runs:
        assert done.result.keys() == expected.keys()
        for name in PASSES.keys() & set(names):
            forward_passes, backward_passes = PASSES[name]
            # Of the last step. 12 norms see 2 sizes of crops, one is in the head.
            gathers, reductions = 1 + 25 * forward_passes, 3 + 25 * backward_passes
            assert done.result[f"collectives/{name}"].tolist() == [gathers, reductions, gathers + reductions]
            assert expected[f"collectives/{name}"] == [1, 3, 4]  # assignment: 3, agreement on the loss: 1
        for key in expected.keys() - set(interleaved) - set(counts):
            tolerance = 1e-6 if "/loss/" in key else 1e-9  # losses are reported in float32
            np.testing.assert_allclose(done.result[key], expected[key], atol=tolerance, rtol=tolerance, err_msg=key)


# ------------------------------------------------------------------------------- stop and resume
@contextmanager
def log_lines():
    """What the log says inside the block."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("passl")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


RESUME = ["Model.queue_length=16", "Global.epochs=4"]
STOPS = {"epoch end": 3, "mid epoch, queue filling": 4, "mid epoch, queue in use": 8}


def latest(config, name):
    return f"Global.checkpoint={Path(config).parent / name / 'SwAV' / 'latest'}"


def resume_on_two_ranks(config):
    """Same number of ranks: compared here. From one rank: queue, log and samples are handed back."""
    straight = separate(config, "straight", *RESUME)
    straight.run()
    for stop, step in STOPS.items():
        separate(config, stop, *RESUME, f"Global.max_train_step={step}").run()
        resumed = separate(config, f"{stop}, resumed", *RESUME, latest(config, stop))
        assert resumed.step == step
        resumed.run()
        assert_same_state(state_of(straight), state_of(resumed))

    with log_lines() as lines:
        widened = separate(config, "widened", *RESUME, latest(config, "one"), "Global.max_train_step=12",
                           "DataLoader.Train.sampler.batch_size=2")
    result = {"queue": widened.method.queue.entries.numpy(), "log": [line for line in lines if "resumed on" in line]}
    notes = watch(widened)
    widened.run()
    return {**result, "index": np.concatenate(notes["index"])}


def test_resume_on_the_same_and_on_another_number_of_ranks(config, tmp_path):
    # One rank, 6 steps an epoch, stopped in the middle of the second: its queue of 16 is nearly full.
    one = separate(config, "one", *RESUME, "Global.max_train_step=9")
    before = watch(one)
    one.run()

    runs = run_ranks(resume_on_two_ranks, 2, tmp_path, timeout=600, config=str(config))

    saved, filled = one.method.queue.entries.numpy(), one.method.queue.filled
    assert filled == 12
    for done in runs:
        assert done.result["log"].tolist() == [
            "resumed on 2 ranks instead of 1, after 12 samples of the epoch; "
            "queue re-divided: 1 ranks x 16 entries -> 2 x 8, 6 filled on each"]
        # Every rank has every second entry, newest first, so the newest are still dropped last.
        np.testing.assert_array_equal(done.result["queue"][:, :6], saved[:, :filled][:, done.rank::2])
        assert not done.result["queue"][:, 6:].any()
    seen = np.concatenate([*before["index"][6:], *(done.result["index"] for done in runs)])
    assert sorted(seen) == list(range(IMAGES))

    # Two ranks stopped after 2 of 3 steps of the last epoch; one rank finishes it.
    with log_lines() as lines:
        narrowed = separate(config, "narrowed", *RESUME, latest(config, "mid epoch, queue in use"))
    shares = [share["method"]["queue"]["entries"] for share in checkpoint_of(config, "mid epoch, queue in use").ranks]
    np.testing.assert_array_equal(narrowed.method.queue.entries.numpy(),
                                  np.stack(shares, axis=2).reshape(narrowed.method.queue.entries.shape))
    assert [line for line in lines if "resumed on" in line] == [
        "resumed on 1 ranks instead of 2, after 16 samples of the epoch; "
        "queue re-divided: 2 ranks x 8 entries -> 1 x 16, 16 filled on each"]
    after = watch(narrowed)
    narrowed.run()
    order = narrowed.loader.sampler.order(2)
    assert len(after["index"]) == 2 + 6 and sorted(np.concatenate(after["index"][:2])) == sorted(order[16:])


def checkpoint_of(config, name):
    from passl.engine import checkpoint

    return checkpoint.load(Path(config).parent / name / "SwAV" / "latest")
