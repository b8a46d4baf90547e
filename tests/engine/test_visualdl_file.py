"""VisualDL's file of a run: one whole curve after any number of resumes, read with VisualDL's own reader."""
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from passl.engine.callbacks import StepRecord
from passl.engine.visualdl_file import FILE, VisualDL
from tests.distributed.ranks import run_ranks
from tests.engine.runs import trainer, write_config, write_images

ITERATIONS = 4


def run_of(step=0, usage=(1, 2, 3)):
    return SimpleNamespace(step=step, method=SimpleNamespace(histograms=lambda: {"prototype_usage": np.array(usage)}))


def record(step, loss=None, rates=None):
    return StepRecord(step // ITERATIONS, 9, step % ITERATIONS, ITERATIONS, step, step / 8 if loss is None else loss,
                      rates or {"default": 0.5}, 8, 0.5, 0.125, {"used": paddle.to_tensor(0.25)})


def read(folder):
    """{component: {tag: [(step, value), ...]}} of the one file that the page shows for a folder."""
    from visualdl import LogReader

    file, = folder.iterdir()
    reader = LogReader(file_path=str(file))
    return {kind: {tag: [(one.id, one.value) for one in reader.get_data(kind, tag)] for tag in tags}
            for kind, tags in reader.get_tags().items()}


def go(folder, start, stop, every=1, loss=None, end=True, name="vdl"):
    """Steps start..stop-1 of a run that ends its epochs, evaluates then, and is killed when not `end`."""
    callback = VisualDL(folder / name, every, folder / "metrics.jsonl")
    callback.on_train_start(run_of(start))
    if start == 0:
        callback.on_first_batch({"crops": [np.zeros([2, 8, 8, 3], np.uint8)]})
    for step in range(start, stop):
        callback.on_step(record(step, loss))
        if step % ITERATIONS == ITERATIONS - 1:
            callback.on_epoch_end(step // ITERATIONS, {})
            callback.on_metrics(step // ITERATIONS, step + 1, {"knn20": 0.5})
    if end:
        callback.on_train_end()


def test_tags_steps_and_histograms(tmp_path):
    callback = VisualDL(tmp_path, 3, tmp_path / "none.jsonl")
    callback.on_train_start(run_of(usage=range(70)))
    for step in range(ITERATIONS):
        callback.on_step(record(step, 2.0, {"default": 0.5, "head": 0.25}))
    callback.on_epoch_end(0, {})
    callback.on_metrics(0, ITERATIONS, {"knn20": 0.75})
    callback.on_train_end()
    found = read(tmp_path)
    assert found["scalar"] == {**{tag: [(0, value), (3, value)] for tag, value in {
        "train_loss": 2.0, "lr": 0.5, "lr/head": 0.25, "train_used": 0.25, "train_images_per_second": 16.0,
        "train_data_wait_share": 0.25}.items()}, "eval_knn20": [(4, 0.75)]}
    from visualdl import LogReader

    histogram, = LogReader(file_path=str(tmp_path / FILE)).get_data("histogram", "prototype_usage")
    assert histogram.id == 1 and len(histogram.histogram.hist) == 50 and sum(histogram.histogram.hist) == 70


def assert_whole(folder, steps, every=1):
    found = read(folder / "vdl")
    written = [step for step in range(steps) if step % every == 0 or step % ITERATIONS == ITERATIONS - 1]
    assert [step for step, _ in found["scalar"]["train_loss"]] == written
    assert [step for step, _ in found["scalar"]["lr"]] == written
    ends = range(ITERATIONS, steps + 1, ITERATIONS)
    assert [step for step, _ in found["scalar"]["eval_knn20"]] == list(ends)
    assert [epoch for epoch, _ in found["histogram"]["prototype_usage"]] == list(range(1, len(ends) + 1))
    assert [step for step, _ in found["image"]["first_batch/crops"]] == [0]
    assert len(found["meta_data"]["meta_data_tag"]) == 1
    return dict(found["scalar"]["train_loss"])


@pytest.mark.parametrize("every", [1, 3])
def test_resumed_runs_draw_every_step_once(tmp_path, every):
    go(tmp_path, 0, 7, every)
    go(tmp_path, 5, 10, every, loss=-1.0, end=False)  # from a step before the end; then killed
    go(tmp_path, 2 * ITERATIONS, 14, every, loss=-2.0)  # at the end of an epoch
    values = assert_whole(tmp_path, 14, every)
    assert [values[step] for step in (0, 3, 7, 12)] == [0, 0.375, -1, -2]


def test_a_killed_process_leaves_half_a_record_or_zeros(tmp_path):
    for tail in (b"\x40", b"\x40" + bytes(7) + b"half a record", bytes(64), b"\x04" + bytes(7) + b"\xff\xff\xff\xff"):
        go(tmp_path, 0, 6, end=False)
        with open(tmp_path / "vdl" / FILE, "ab") as file:
            file.write(tail)
        go(tmp_path, 6, 9)
        assert_whole(tmp_path, 9)


def test_an_epoch_that_is_ended_twice_is_drawn_once(tmp_path):
    go(tmp_path, 0, ITERATIONS)
    callback = VisualDL(tmp_path / "vdl", 1, tmp_path / "none.jsonl")
    callback.on_train_start(run_of(ITERATIONS))  # saved after the last step of the epoch, killed before its end was
    callback.on_epoch_end(0, {})
    callback.on_metrics(0, ITERATIONS, {"knn20": 0.5})
    callback.on_train_end()
    assert_whole(tmp_path, ITERATIONS)


def test_a_new_run_in_the_folder_starts_its_curve_anew(tmp_path):
    go(tmp_path, 0, 9)
    go(tmp_path, 0, 5, loss=-1.0)
    assert set(assert_whole(tmp_path, 5).values()) == {-1.0}


def test_steps_made_without_visualdl_come_from_the_metrics(tmp_path):
    lines = [{"step": step, "epoch": 1, "loss": None if step == 2 else 7.0, "lr": 0.5, "used": 0.25, "step_time": 0.1,
              "data_time": 0.0} for step in range(6)]
    lines.insert(4, {"step": 4, "epoch": 1, "eval_knn20": 0.5})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    go(tmp_path, 6, 9)
    found = read(tmp_path / "vdl")["scalar"]
    assert [step for step, _ in found["train_loss"]] == [0, 1, 3, 4, 5, 6, 7, 8]
    assert [step for step, _ in found["lr"]] == [step for step, _ in found["train_used"]] == list(range(9))
    assert found["eval_knn20"] == [(4, 0.5), (8, 0.5)]
    assert "train_step_time" not in found and "epoch" not in found


ALWAYS = ["Global.use_visualdl=True", "Global.print_batch_step=1", "Global.checkpoint=auto", "Global.epochs=4"]


def go_to(limit, config):
    """Train on from the last checkpoint up to step `limit`; whether this rank has a file of VisualDL open."""
    run = trainer(Path(config), *ALWAYS, f"Global.max_train_step={limit}")
    run.run()
    return {"writes": any(isinstance(callback, VisualDL) for callback in run.callbacks)}


def assert_has_the_steps_of_its_metrics(folder, steps):
    told = [json.loads(line) for line in (folder / "SwAV" / "metrics.jsonl").read_text().splitlines()]
    found = read(folder / "vdl" / "SwAV")
    assert found["scalar"]["train_loss"] == [(line["step"], pytest.approx(line["loss"])) for line in told]
    assert [line["step"] for line in told] == list(range(steps))
    return found


def test_a_real_run_resumed_twice_has_the_steps_of_its_metrics(tmp_path):
    config = write_config(tmp_path, write_images(tmp_path / "images", 9))
    for limit in (3, 5, 7):
        go_to(limit, config)
    found = assert_has_the_steps_of_its_metrics(tmp_path / "output", 7)
    assert [epoch for epoch, _ in found["histogram"]["prototype_usage"]] == [1, 2, 3]
    assert len(found["image"]["first_batch/crops"]) == 1


@pytest.mark.dist
def test_one_rank_then_two_then_one_draw_one_curve_and_rank_0_alone_writes(tmp_path):
    config = str(write_config(tmp_path, write_images(tmp_path / "images", 16)))
    go_to(3, config)
    first, second = run_ranks(go_to, 2, tmp_path, limit=5, config=config)
    assert first.result["writes"] and not second.result["writes"]
    go_to(7, config)
    assert_has_the_steps_of_its_metrics(tmp_path / "output", 7)
