"""Records of a run for people and programs: JSON lines, first crops, class names."""
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
