"""What a run starts from: refusals, overwriting, damaged folders, changed settings, the place in the schedule."""
import gc
import json
import logging
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from passl.cli.train import main
from passl.distributed import JointFailure
from passl.engine import checkpoint, resume
from passl.engine.log import LOGGER
from tests.engine.runs import assert_same_state, state_of, trainer


@pytest.fixture
def log(monkeypatch):
    """The lines that are logged, as (level, text)."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append((record.levelname, record.getMessage()))
    monkeypatch.setattr(LOGGER, "handlers", [handler])
    level = LOGGER.level
    LOGGER.setLevel(logging.INFO)
    yield lines
    LOGGER.setLevel(level)


@pytest.fixture
def used(config):
    """Folder of a run of 1 epoch."""
    run = trainer(config, "Global.epochs=1")
    run.run()
    return run.folder


def command(config, *overrides):
    try:
        return main(["-c", str(config), "-o", "Global.epochs=1", *overrides])
    except SystemExit as exit_:
        return exit_.code


def rates_and_freeze(run):
    """Learning rate of every step, and whether the prototypes were held in it, while `run` trains to its end."""
    rates, held = [], []
    set_step, after_backward = run.optimizer.set_step, run.method.after_backward
    run.optimizer.set_step = lambda step: rates.append(set_step(step)) or rates[-1]
    run.method.after_backward = lambda step: held.append(step < run.method.frozen_steps) or after_backward(step)
    run.run()
    return [rate["default"] for rate in rates], held


# ------------------------------------------------------------------------------------------- place in the schedule
@pytest.mark.parametrize("first, stop, second, place, whole", [(4, 7, 8, 3, 6), (8, 2, 4, 5, 15)],
                         ids=["larger batch", "smaller batch"])
def test_another_batch_goes_on_at_the_same_place_of_the_schedule(config, log, first, stop, second, place, whole):
    size = "DataLoader.Train.sampler.batch_size="
    model = ["Model.queue_length=8", "Model.freeze_prototypes_epochs=1.5"]
    trainer(config, f"{size}{first}", f"Global.max_train_step={stop}", *model).run()
    resumed = trainer(config, f"{size}{second}", "Global.checkpoint=auto", *model)
    # 5 iterations an epoch with a batch of 4, 2 with 8: step 7 of 15 is 8 images into the second of 3 epochs.
    assert resumed.progress.position == place and resumed.total_steps == stop + whole - place
    schedule = resumed.optimizer.groups[0][3]
    expected = [schedule(position) for position in range(place, whole)]
    rates, held = rates_and_freeze(resumed)
    assert rates == expected and rates[-1] < 0.3 * rates[0]
    assert held == [position < 1.5 * whole / 3 for position in range(place, whole)]
    assert resumed.progress.epoch == 3 and any("training finished" in line for _, line in log)
    assert any(f"step {stop}, place {place} of {whole} in the schedule" in line for _, line in log)
    warnings = [line for level, line in log if level == "WARNING"]
    assert any(f"iterations of {first} images when the checkpoint was written" in line for line in warnings)
    steps = [json.loads(line)["step"] for line in (resumed.folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(stop + whole - place))


def test_a_finished_run_says_that_nothing_is_left(config, used, log):
    trainer(config, "Global.epochs=1", "Global.checkpoint=auto").run()
    assert ("WARNING", "nothing is left to train: 1 of Global.epochs 1 are done") in log


# ------------------------------------------------------------------------------------------- used folders
def test_a_used_folder_is_refused_and_left_alone(config, used, capsys):
    before = {path: path.stat().st_mtime_ns for path in used.rglob("*") if path.name != "train.log"}
    assert command(config, "Global.seed=7") == 1
    message = capsys.readouterr().err
    for remedy in ("holds an earlier run", "Global.checkpoint=auto", "Global.output_dir", "Global.overwrite=True"):
        assert remedy in message
    assert {path: path.stat().st_mtime_ns for path in used.rglob("*") if path.name != "train.log"} == before


def test_overwrite_removes_the_earlier_run_when_training_starts(config, used):
    again = trainer(config, "Global.overwrite=True", "Global.max_train_step=2", "Global.max_num_latest_checkpoint=-1")
    assert (used / "epoch_1.pdparams").exists()  # until everything is built
    again.run()
    assert sorted(path.name for path in (used / "checkpoints").iterdir()) == ["step_000000002"]
    assert not list(used.glob("epoch_*")) and len((used / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("setting", ["auto", "latest"])
def test_overwrite_never_touches_a_run_that_is_resumed(config, used, setting):
    setting = setting if setting == "auto" else used / "latest"
    run = trainer(config, "Global.overwrite=True", f"Global.checkpoint={setting}", "Global.epochs=2")
    run.run()
    assert run.step == 10 and len((used / "metrics.jsonl").read_text().splitlines()) == 10


def test_pruning_goes_by_the_order_of_saving(tmp_path):
    store = checkpoint.CheckpointStore(tmp_path, keep=2)
    parts = {name: {"a": np.ones(3)} for name in (checkpoint.PARAMETERS, checkpoint.OPTIMIZER, checkpoint.STATES)}
    for step, epoch in enumerate([8, 9, 1]):  # a run that begins again in the folder of an older one
        store.save(["latest", f"epoch_{epoch}"], step, lambda: parts, {})
    assert sorted(path.name for path in tmp_path.glob("epoch_?")) == ["epoch_1", "epoch_9"]
    assert len(os.listdir(tmp_path / "checkpoints")) == 2


def test_old_checkpoints_that_cannot_be_removed_do_not_stop_the_run(config, log, monkeypatch):
    run = trainer(config, "Global.max_num_latest_checkpoint=1", "Global.epochs=2")
    original = shutil.rmtree

    def stubborn(path, *arguments, **keywords):
        if Path(path).name == "step_000000005":
            raise PermissionError("not yours")
        original(path, *arguments, **keywords)

    monkeypatch.setattr(shutil, "rmtree", stubborn)
    run.run()
    assert checkpoint.load(str(run.folder / "latest")).states["global_step"] == 10
    assert [line for level, line in log if level == "WARNING" and "could not be removed, the run goes on: not" in line]


# ------------------------------------------------------------------------------------------- Global.checkpoint: auto
def two_epochs(config):
    run = trainer(config, "Global.epochs=2")
    run.run()
    return run.folder


def drop_links(folder):
    for path in list(folder.iterdir()):
        if path.is_symlink():
            path.unlink()


AUTO = [
    (lambda folder: (folder / "latest" / "manifest.json").unlink(), 5, "has lost its manifest.json"),
    (lambda folder: (folder / "latest" / "manifest.json").write_text("{}"), 5, "manifest.json cannot be read"),
    (lambda folder: (folder / "latest" / "passl.pdopt").write_bytes(b"x"), 5, "passl.pdopt has 1 bytes instead of"),
    (drop_links, 10, "no checkpoint at"),
]


@pytest.mark.parametrize("damage, step, said", AUTO, ids=["no manifest", "empty manifest", "damaged file", "no links"])
def test_auto_takes_the_newest_whole_checkpoint(config, log, damage, step, said):
    damage(two_epochs(config))
    run = trainer(config, "Global.checkpoint=auto")
    assert run.step == step
    assert [line for level, line in log if level == "WARNING" and said in line and "the newest that is whole" in line]
    run.run()
    assert run.step == 15 and (run.folder / "latest.pdparams").exists()


def test_auto_in_a_copy_without_links_goes_on_and_restores_them(config):
    folder = two_epochs(config)
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)  # links become folders
    shutil.rmtree(folder)
    copy.rename(folder)
    run = trainer(config, "Global.checkpoint=auto")
    run.run()
    assert run.step == 15 and (folder / "latest").is_symlink()


def test_auto_fails_clearly_when_nothing_can_be_used_and_starts_afresh_only_without_any(config):
    assert trainer(config, "Global.checkpoint=auto").step == 0
    folder = two_epochs(config)
    for path in (folder / "checkpoints").iterdir():
        (path / "manifest.json").unlink()
    with pytest.raises(JointFailure, match="no checkpoint of it can be used.*Global.overwrite=True"):
        trainer(config, "Global.checkpoint=auto")


def test_auto_never_takes_the_state_of_a_broken_loss(tmp_path):
    store = checkpoint.CheckpointStore(tmp_path, keep=0)
    parts = {name: {"a": np.ones(3)} for name in (checkpoint.PARAMETERS, checkpoint.OPTIMIZER, checkpoint.STATES)}
    store.save(["nonfinite"], 3, lambda: parts, {})
    assert resume.choose({"checkpoint": "auto", "overwrite": False}, tmp_path) is None


# ------------------------------------------------------------------------------------------- other runs, damage
def test_a_refused_resume_keeps_the_config_that_it_points_to(config, used, capsys):
    before = (used / "config.yaml").read_text()
    assert command(config, "Model.backbone.base_channels=8", "Global.checkpoint=auto") == 1
    named = capsys.readouterr().err.split("resume with the config saved in it, ")[1].split(", or start")[0]
    assert (used / "config.yaml").read_text() == before == Path(named).read_text()


@pytest.mark.parametrize("change, message", [
    (["Optimizer={name: AdamW, lr: {name: TimmCosine, learning_rate: 0.01}}"],
     "written with Optimizer.name MomentumLARC, this run has AdamW"),
    (["Model.name=swav_resnet10_pretrain"], "written with Model.name SwAV, this run has swav_resnet10_pretrain"),
], ids=["optimizer", "model"])
def test_another_optimizer_or_model_is_refused(config, used, capsys, change, message):
    assert command(config, *change, f"Global.checkpoint={used / 'latest'}") == 1
    error = capsys.readouterr().err
    assert message in error and "Global.pretrained_model" in error


def test_changed_settings_are_told_in_one_line(config, used, log):
    trainer(config, "Global.epochs=2", "Global.seed=7", "Model.epsilon=0.03", "Global.checkpoint=auto")
    assert ("WARNING", "settings that were others when the checkpoint was written: Global.epochs 1 -> 2, Global.seed 31"
            " -> 7, Model.epsilon 0.05 -> 0.03") in log


def test_unchanged_settings_are_not_mentioned(config, used, log):
    trainer(config, "Global.epochs=1", "Global.checkpoint=auto")
    assert not [line for level, line in log if level == "WARNING"]


@pytest.mark.parametrize("text", ["", "{}", '{"files": []}', '{"files": {"passl.pdparams": 3}}'])
def test_damaged_manifest_is_named_by_the_command(config, used, capsys, text):
    manifest = (used / "latest").resolve() / "manifest.json"
    manifest.write_text(text)
    assert command(config, f"Global.checkpoint={used / 'latest'}") == 1
    error = capsys.readouterr().err
    assert f"{manifest} cannot be read" in error and "resume from another one" in error and "Traceback" not in error


def test_incomplete_manifest_is_named_by_the_command(config, used, capsys):
    manifest = (used / "latest").resolve() / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["files"]["passl.pdopt"]
    manifest.write_text(json.dumps(content))
    assert command(config, f"Global.checkpoint={used / 'latest'}") == 1
    assert f"{manifest} does not name passl.pdopt" in capsys.readouterr().err


def test_foreign_weight_file_is_pointed_to_pretrained_model(config, tmp_path, capsys):
    foreign = tmp_path / "swav_800ep.pth.tar"
    foreign.write_bytes(b"weights")
    assert command(config, f"Global.checkpoint={foreign}") == 1
    error = capsys.readouterr().err
    assert f"{foreign} is there, but not as a checkpoint" in error and f"Global.pretrained_model={foreign}" in error


# ------------------------------------------------------------------------------------------- signals
def raise_in(owner, name, when=lambda: True):
    """Send SIGTERM to this process when `owner.name` is called and `when()` holds."""
    original = getattr(owner, name)

    def called(*arguments, **keywords):
        if when():
            signal.raise_signal(signal.SIGTERM)
        return original(*arguments, **keywords)

    setattr(owner, name, called)


@pytest.mark.parametrize("interval", [1, 2], ids=["saved by the epoch", "not yet saved"])
def test_signal_at_the_end_of_an_epoch_stops_before_the_next(config, straight_run, log, interval):
    run = trainer(config, f"Global.save_interval={interval}")
    raise_in(run, "_evaluate", lambda: run.step == 5 and run.progress.epoch == 1)
    saves = []
    save = run._save
    run._save = lambda names: saves.append(names) or save(names)
    run.run()
    assert run.step == 5 and len(saves) == 1
    (line,) = [line for _, line in log if "stopped by SIGTERM" in line]
    assert line.endswith("saved after step 5; resume with "
                         f"passl-train -c {run.folder}/config.yaml -o Global.checkpoint={run.folder}/latest")
    resumed = trainer(run.folder / "config.yaml", f"Global.checkpoint={run.folder}/latest")
    resumed.run()
    assert_same_state(straight_run[0], state_of(resumed))


@pytest.mark.parametrize("step", [2, 4], ids=["in the epoch", "in its last step"])
def test_averages_and_usage_of_an_interrupted_epoch_cover_all_of_it(config, log, step):
    def epoch_line():
        (line,) = [line for _, line in log if "[Train][Epoch 1/1][Avg]" in line]
        return line

    straight = trainer(config, "Global.epochs=1")
    straight.run()
    expected = epoch_line()
    assert "loss: " in expected
    log.clear()
    run = trainer(config, "Global.epochs=1", "Global.overwrite=True")
    raise_in(run, "make_step", lambda: run.step == step)
    run.run()
    assert run.step == step + 1 and not [line for _, line in log if "[Avg]" in line]
    resumed = trainer(config, "Global.epochs=1", "Global.checkpoint=auto")
    resumed.run()
    assert epoch_line() == expected
    np.testing.assert_array_equal(resumed.method.histograms()["prototype_usage"],
                                  straight.method.histograms()["prototype_usage"])


def test_stopping_at_a_step_limit_prints_a_command_without_the_limit(config, log):
    run = trainer(config, "Global.max_train_step=2")
    run.run()
    (line,) = [line for _, line in log if "stopped by Global.max_train_step" in line]
    arguments = line.split("resume with passl-train ")[1].split()
    assert arguments[:2] == ["-c", str(run.folder / "config.yaml")]
    assert trainer(Path(arguments[1]), *arguments[3:]).total_steps == 15


# ------------------------------------------------------------------------------------------- disk and memory
def test_nothing_stays_mapped_of_a_checkpoint_that_is_resumed(config, used):
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc")
    run = trainer(config, "Global.epochs=2", f"Global.checkpoint={used / 'latest'}")
    gc.collect()
    assert "step_000000005" not in Path("/proc/self/maps").read_text()
    run.run()
    assert not run.optimizer._loaded  # what Paddle holds itself by now


def test_everything_is_flushed_before_the_names_change(tmp_path, monkeypatch):
    events = []
    fsync, replace, rename = os.fsync, os.replace, Path.rename

    def note(kind, path):
        if tmp_path in Path(path).parents or Path(path) == tmp_path:
            events.append((kind, Path(path).name))

    monkeypatch.setattr(os, "fsync", lambda d: note("flush", os.readlink(f"/proc/self/fd/{d}")) or fsync(d))
    monkeypatch.setattr(os, "replace", lambda a, b: note("name", b) or replace(a, b))
    monkeypatch.setattr(Path, "rename", lambda a, b: note("rename", b) or rename(a, b))
    parts = {name: {"a": np.ones(3)} for name in (checkpoint.PARAMETERS, checkpoint.OPTIMIZER, checkpoint.STATES)}
    checkpoint.CheckpointStore(tmp_path, 0).save(["latest"], 3, lambda: {**parts, "config.yaml": "a: 1"}, {})
    files = ["rank_0.pdstates", "passl.pdparams", "passl.pdopt", "passl.pdstates", "config.yaml", "manifest.json",
             ".step_000000003.partial"]
    assert events == [*(("flush", name) for name in files), ("rename", "step_000000003"), ("flush", "checkpoints"),
                      *(("name", name) for name in ("latest", "latest.pdparams", "latest.pdopt", "latest.pdstates")),
                      ("flush", tmp_path.name)]


def test_only_rank_0_copies_weights_and_optimizer_state(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.distributed, "rank", lambda: 1)
    (tmp_path / "checkpoints" / ".step_000000003.partial").mkdir(parents=True)
    checkpoint.CheckpointStore(tmp_path, 0).save(["latest"], 3, lambda: pytest.fail("copied on rank 1"), {"a": 1})
    assert os.listdir(tmp_path / "checkpoints" / ".step_000000003.partial") == ["rank_1.pdstates"]


# ------------------------------------------------------------------------------------------- micro-batches
def test_micro_batches_of_unequal_sizes_count_by_their_images(config):
    run = trainer(config, "DataLoader.Train.sampler.drop_last=False", "DataLoader.Train.sampler.batch_size=12",
                  "Global.accum_steps=4", "Model.queue_length=0", "Global.epochs=1")
    parameter = run.method.model.parameters()[0]
    seen = []

    def training_step(batch, plan):  # a loss whose gradient is the mean index of the images
        value = batch["index"].astype("float32").mean()
        return parameter.sum() * 0 + value * parameter.flatten()[0], {"mean_index": value}

    def after_backward(step):
        seen[-1].append(float(parameter.grad.flatten()[0]))

    def micro_batches(host_batch, original=run.feed.micro_batches):
        seen.append([[len(part["index"]) for part in original(host_batch)], host_batch["index"].mean()])
        return original(host_batch)

    run.method.plan = lambda batches: [None] * len(batches)
    run.method.training_step, run.method.after_backward = training_step, after_backward
    run.feed.micro_batches = micro_batches
    for callback in run.callbacks:
        callback.on_step = lambda record: seen[-1].append(float(record.statistics["mean_index"]))
    run.run()
    assert [entry[0] for entry in seen] == [[3, 3, 3, 3], [3, 3, 3, 1]]
    for _, mean, gradient, *statistics in seen:
        np.testing.assert_allclose([gradient, *statistics], mean, rtol=1e-6)
