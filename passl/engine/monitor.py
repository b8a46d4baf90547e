"""Records of a run for people and programs: JSON lines, VisualDL scalars, first crops, prototype usage."""
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Dict

from passl.engine.callbacks import Callback, StepRecord
from passl.files import write_text


class JsonLines(Callback):
    """`metrics.jsonl`: one object per step and per evaluation, appended.

    A resumed run drops the lines at and after the step it resumes from, so that no step occurs twice. What is not
    finite is written as null.
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    def on_train_start(self, trainer):
        kept = []
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # the half line of a killed process
                if record["step"] < trainer.step or (record["step"] == trainer.step and "loss" not in record):
                    kept.append(line)
        write_text(self.path, "".join(line + "\n" for line in kept))
        self.file = open(self.path, "a", buffering=1)

    def on_step(self, record: StepRecord):
        self._write({"step": record.step, "epoch": record.epoch + 1, "loss": record.loss,
                     "lr": record.learning_rates.get("default", next(iter(record.learning_rates.values()))),
                     **record.values, "step_time": round(record.step_time, 6), "data_time": round(record.data_time, 6)})

    def on_metrics(self, epoch, step, metrics):
        self._write({"step": step, "epoch": epoch + 1, **{f"eval_{name}": value for name, value in metrics.items()}})

    def _write(self, record: Dict[str, Any]):
        # JSON knows neither NaN nor infinity.
        record = {name: None if isinstance(value, float) and not math.isfinite(value) else value
                  for name, value in record.items()}
        self.file.write(json.dumps(record, allow_nan=False) + "\n")

    def on_train_end(self):
        self.file.close()


def first_images(batch: Dict[str, Any], count: int = 8):
    """The crops of a batch's first images, as `crop_grid` wants them."""
    return [[crops[image] for crops in batch["crops"]] for image in range(min(count, len(batch["crops"][0])))]


class VisualDL(Callback):
    """Scalars under PASSL's tags (lr, train_<name>, eval_<name>), first crops, histograms of prototype usage."""

    def __init__(self, folder: Path, every: int):
        self.folder, self.every = folder, max(1, every)

    def on_train_start(self, trainer):
        from visualdl import LogWriter

        self.writer = LogWriter(logdir=str(self.folder))
        self.method = trainer.method

    def on_first_batch(self, batch):
        if "crops" in batch:
            from passl.data.batch import crop_grid

            self.writer.add_image("first_batch/crops", crop_grid(first_images(batch)), 0)

    def on_step(self, record: StepRecord):
        if record.step % self.every and record.iteration != record.iterations - 1:
            return
        self.writer.add_scalar("train_loss", record.loss, record.step)
        for name, rate in record.learning_rates.items():
            self.writer.add_scalar("lr" if name == "default" else f"lr/{name}", rate, record.step)
        for name, value in record.values.items():
            self.writer.add_scalar(f"train_{name}", value, record.step)
        self.writer.add_scalar("train_images_per_second", record.images / max(record.step_time, 1e-9), record.step)
        self.writer.add_scalar("train_data_wait_share", record.data_time / max(record.step_time, 1e-9), record.step)

    def on_epoch_end(self, epoch, averages):
        for name, values in self.method.histograms().items():
            self.writer.add_histogram(name, values, epoch + 1, buckets=min(50, len(values)))

    def on_metrics(self, epoch, step, metrics):
        for name, value in metrics.items():
            self.writer.add_scalar(f"eval_{name}", value, step)

    def on_train_end(self):
        self.writer.close()


class CropPicture(Callback):
    """`first_batch.png`: the crops of the first images, one row an image, to see what the network is trained on."""

    def __init__(self, path: Path):
        self.path = path

    def on_first_batch(self, batch):
        if "crops" in batch:
            from PIL import Image

            from passl.data.batch import crop_grid

            Image.fromarray(crop_grid(first_images(batch))).save(self.path)


class ClassNames(Callback):
    """`classes.txt`: one class name a line in the order of the classifier's outputs, for prediction later on."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_start(self, trainer):
        names = trainer.loader.dataset.classes
        if len(names) == getattr(trainer.method, "classes", None):
            write_text(self.path, "".join(f"{name}\n" for name in names))
