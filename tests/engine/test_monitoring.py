"""What a run leaves for people and programs: PASSL's log lines, metrics.jsonl, the progress bar."""
import json
import logging
import re
from types import SimpleNamespace

import paddle
import pytest

from passl.engine.callbacks import StepRecord
from passl.engine.log import LOGGER, LogLines, ProgressBar
from passl.engine.monitor import JsonLines
from passl.inference.engine import BatchRecord
from tests.engine.runs import trainer

NUMBER = r"-?\d+\.\d{5}"
TRAIN = re.compile(r"\[Train\]\[Epoch (\d+)/(\d+)\]\[Iter: (\d+)/(\d+)\] "
                   rf"lr: \d\.\d{{6}}(?:, lr\[\w+\]: \d\.\d{{6}})*, (?:\w+: {NUMBER}, )*"
                   rf"batch_cost: {NUMBER}s, reader_cost: {NUMBER}s, ips: {NUMBER} images/sec, "
                   r"(?:max mem: \d+\.\d\d GB, )?eta: \d+:\d\d:\d\d")
TRAIN_AVERAGE = re.compile(rf"\[Train\]\[Epoch (\d+)/(\d+)\]\[Avg\]\w+: {NUMBER}(?:, \w+: {NUMBER})*")
EVAL = re.compile(rf"\[Eval\]\[Epoch (\d+)\]\[Iter: (\d+)/(\d+)\](?:\w+: {NUMBER}, )*batch_cost: {NUMBER}s, "
                  rf"reader_cost: {NUMBER}s, ips: {NUMBER} images/sec")
EVAL_AVERAGE = re.compile(rf"\[Eval\]\[Epoch (\d+)\]\[Avg\]\w+: {NUMBER}(?:, \w+: {NUMBER})*")


@pytest.fixture
def lines(monkeypatch):
    """Messages of the log, as they come."""
    seen = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    monkeypatch.setattr(LOGGER, "handlers", [handler])
    LOGGER.setLevel(logging.INFO)
    return seen


def run_of(**attributes):
    return SimpleNamespace(**{"step": 0, "total_steps": 6, "epochs": 2, **attributes})


def record(step=0, loss=2.0, statistics=None, iteration=None, rates=None):
    return StepRecord(0, 2, step if iteration is None else iteration, 6, step, loss, rates or {"default": 0.5}, 8, 0.5,
                      0.1, {"used": paddle.to_tensor(0.25)} if statistics is None else statistics)


def test_lines_follow_the_grammar_and_average_over_their_window(lines):
    callback = LogLines(2)
    callback.on_train_start(run_of())
    for step, loss in enumerate((4.0, 1.0, 2.0)):
        callback.on_step(record(step, loss, rates={"default": 0.5, "head": 0.25}))
    assert all(TRAIN.fullmatch(line) for line in lines), lines
    assert lines[1].startswith("[Train][Epoch 1/2][Iter: 2/6] lr: 0.500000, lr[head]: 0.250000, loss: 1.50000, "
                               "used: 0.25000, batch_cost: 0.50000s, reader_cost: 0.10000s, ips: 16.00000 images/sec")
    assert lines[1].endswith("eta: 0:00:01") and len(lines) == 2
    callback.on_epoch_end(0, {"loss": 2.5, "used": 0.25})
    assert lines[2] == "[Train][Epoch 1/2][Avg]loss: 2.50000, used: 0.25000" and TRAIN_AVERAGE.fullmatch(lines[2])


def test_a_step_left_out_does_not_spoil_the_average(lines):
    callback = LogLines(2)
    callback.on_train_start(run_of())
    for step, loss in enumerate((4.0, float("nan"), 2.0)):
        callback.on_step(record(step, loss, {} if step == 1 else None))
    assert ", loss: 2.00000, used: 0.25000, " in lines[1]


def test_validation_prints_lines_over_its_batches(lines):
    callback = LogLines(2)
    for iteration in range(4):
        loss = {"loss": paddle.to_tensor(1.5)}
        callback.on_evaluation_batch(2, BatchRecord(iteration, 4, 16, 0.25, 0.05, loss))
    callback.on_metrics(2, 10, {"loss": 1.5, "top1": 0.5})
    assert lines == [
        *(f"[Eval][Epoch 3][Iter: {iteration}/4]loss: 1.50000, batch_cost: 0.25000s, reader_cost: 0.05000s, "
          "ips: 64.00000 images/sec" for iteration in (0, 2, 3)), "[Eval][Epoch 3][Avg]loss: 1.50000, top1: 0.50000"]
    assert all(EVAL.fullmatch(line) for line in lines[:3]) and EVAL_AVERAGE.fullmatch(lines[3])


def test_a_real_run_prints_nothing_but_the_grammar_for_steps(config, lines):
    trainer(config, "Global.max_train_step=6").run()
    steps = [line for line in lines if "[Iter:" in line]
    assert [TRAIN.fullmatch(line).groups() for line in steps] == [
        ("1", "3", "0", "5"), ("1", "3", "2", "5"), ("1", "3", "4", "5"), ("2", "3", "0", "5")]
    assert [TRAIN_AVERAGE.fullmatch(line).groups() for line in lines if "[Avg]" in line] == [("1", "3")]


def test_statistics_are_fetched_once_whoever_asks(monkeypatch, tmp_path):
    one = record(statistics={"used": paddle.to_tensor(0.5), "entropy": paddle.to_tensor(1.5, "float64")})
    fetched = []
    original = paddle.Tensor.tolist
    monkeypatch.setattr(paddle.Tensor, "tolist", lambda tensor: fetched.append(1) or original(tensor))
    callbacks = [LogLines(1), JsonLines(tmp_path / "metrics.jsonl")]
    for callback in callbacks:
        callback.on_train_start(run_of())
        callback.on_step(one)
    assert one.values == {"used": 0.5, "entropy": 1.5} and len(fetched) == 1


def read(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_json_lines_of_a_resumed_run_have_every_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = JsonLines(path)
    first.on_train_start(run_of())
    for step in range(4):
        first.on_step(record(step, float("nan") if step == 1 else 2.0))
        first.on_metrics(0, step + 1, {"knn20": 0.5})
    first.on_train_end()
    with open(path, "a") as file:
        file.write('{"step": 4, "epoch": 1, "lo')  # killed in the middle of a line
    second = JsonLines(path)
    second.on_train_start(run_of(step=3))
    second.on_step(record(3, 1.0))
    second.on_train_end()
    kept = read(path)
    assert [(one["step"], one.get("loss", "evaluation")) for one in kept] == [
        (0, 2.0), (1, "evaluation"), (1, None), (2, "evaluation"), (2, 2.0), (3, "evaluation"), (3, 1.0)]
    assert kept[0] == {"step": 0, "epoch": 1, "loss": 2.0, "lr": 0.5, "used": 0.25, "step_time": 0.5, "data_time": 0.1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_run_killed_while_the_lines_are_rewritten_has_lost_none(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "loss": 2.0}\n')
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        JsonLines(path).on_train_start(run_of(step=1))
    assert path.read_text() == '{"step": 0, "loss": 2.0}\n'


def test_progress_bar_starts_where_the_run_does_and_shows_speed_and_waiting(monkeypatch):
    bars = []

    class Bar:
        def __init__(self, **options):
            self.options, self.done, self.text, self.closed = options, 0, "", False
            bars.append(self)

        def update(self, count):
            self.done += count

        def set_postfix_str(self, text):
            self.text = text

        def close(self):
            self.closed = True

    monkeypatch.setattr("tqdm.tqdm", Bar)
    callback = ProgressBar()
    callback.on_train_start(run_of(step=2))
    callback.on_step(record(2, 1.25))
    callback.on_train_end()
    bar, = bars
    assert (bar.options["total"], bar.options["initial"], bar.done, bar.closed) == (6, 2, 1, True)
    assert bar.text == "epoch 1/2 loss 1.250 16 img/s data wait 20%"
