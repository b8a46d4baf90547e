"""Curves of a run for VisualDL: one file of records, in which every step stands once however often the run went on."""
from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Set, Tuple

from passl.engine.callbacks import Callback, StepRecord
from passl.engine.monitor import first_images

FILE = "vdlrecords.log"  # VisualDL shows one file a folder, by its name the last one: a run has one


class RecordFile:
    """A file of VisualDL's records, each its length (uint64, little-endian) and a protocol buffer, in order of time.

    VisualDL's own writer starts a new file, and the page then shows that one alone; this one goes on with the old one.
    Every record is with the operating system when `add` returns, so a kill takes none.

    step: steps that the run has behind it. What was written of later ones, by a run that went further than its last
    checkpoint, is cut off, and so is the half record of a killed process.
    reached: the last step that the kept records tell of, -1 when there is none.
    """

    def __init__(self, path: Path, step: int):
        from visualdl.component import base_component

        self._make = base_component
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a+b", buffering=0)
        self._kept: Set[Tuple[str, int]] = set()
        self.reached, end = -1, 0
        for after, value in self._read() if step else ():  # at step 0 nothing of an earlier run is its own
            if value.WhichOneof("one_value") == "value":
                last = last_step(value.tag, value.id)
                if last >= step:
                    break
                self.reached = max(self.reached, last)
            self._kept.add((value.tag, value.id))
            end = after
        self._file.truncate(end)
        if not end:
            self.add("meta_data", "meta_data_tag", display_name="", step=0)

    def _read(self) -> Iterator[Tuple[int, Any]]:
        """(place of its end, value) of every record up to the first one that is damaged."""
        from google.protobuf.message import DecodeError
        from visualdl.proto.record_pb2 import Record

        self._file.seek(0)
        data, start = self._file.read(), 0
        while start + 8 <= len(data):
            end = start + 8 + struct.unpack_from("<Q", data, start)[0]
            if end > len(data):
                return
            try:
                value = Record.FromString(data[start + 8:end]).values[0]
            except (DecodeError, IndexError):  # zeros, after a power cut
                return
            yield end, value
            start = end

    def add(self, kind: str, tag: str, *values: Any, step: int, **options: Any) -> None:
        """One record of a `kind` of visualdl.component (scalar, image, histogram), unless the file has it already:

        an epoch whose last step was saved, but not its end, is ended once more.
        """
        if (tag, step) in self._kept:
            return
        record = getattr(self._make, kind)(tag, *values, step=step, walltime=round(time.time() * 1000), **options)
        data = record.SerializeToString()
        self._file.write(struct.pack("<Q", len(data)) + data)

    def close(self) -> None:
        self._file.close()


def last_step(tag: str, step: int) -> int:
    """The training step, from 0, after which a scalar was written: evaluations count the steps that were made."""
    return step - 1 if tag.startswith("eval_") else step


class VisualDL(Callback):
    """Scalars under PASSL's tags (lr, train_<name>, eval_<name>), first crops, histograms of prototype usage.

    folder: of this run alone. metrics: its `metrics.jsonl`, which was opened before: from it come steps of which the
    folder knows nothing, since they were made by an earlier version or without VisualDL.
    """

    def __init__(self, folder: Path, every: int, metrics: Path):
        self.folder, self.every, self.metrics = folder, max(1, every), metrics

    def on_train_start(self, trainer):
        self.records = RecordFile(self.folder / FILE, trainer.step)
        self.method = trainer.method
        if self.metrics.exists():
            for line in self.metrics.read_text().splitlines():
                self._restore(json.loads(line), self.records.reached)

    def _restore(self, line: Mapping[str, Any], reached: int) -> None:
        """Write the scalars of a line of metrics.jsonl when it tells of a later step than `reached`."""
        is_step = "loss" in line
        if line["step"] - (not is_step) <= reached or is_step and line["step"] % self.every:
            return
        for name, value in line.items():
            if value is None or name in ("step", "epoch", "step_time", "data_time"):
                continue
            self._scalars({name if name == "lr" or not is_step else f"train_{name}": value}, line["step"])

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self.records.add("scalar", tag.replace("%", "_"), value, step=step)  # VisualDL gives % a meaning

    def on_first_batch(self, batch):
        if "crops" in batch:
            from passl.data.batch import crop_grid

            self.records.add("image", "first_batch/crops", crop_grid(first_images(batch)), step=0)

    def on_step(self, record: StepRecord):
        if record.step % self.every and record.iteration != record.iterations - 1:
            return
        values: Dict[str, float] = {"train_loss": record.loss}
        values.update({"lr" if name == "default" else f"lr/{name}": rate
                       for name, rate in record.learning_rates.items()})
        values.update({f"train_{name}": value for name, value in record.values.items()})
        values["train_images_per_second"] = record.images / max(record.step_time, 1e-9)
        values["train_data_wait_share"] = record.data_time / max(record.step_time, 1e-9)
        self._scalars(values, record.step)

    def on_epoch_end(self, epoch, averages):
        import numpy as np

        for name, values in self.method.histograms().items():
            counts, edges = np.histogram(values, bins=min(50, len(values)))
            self.records.add("histogram", name, counts, edges, step=epoch + 1)

    def on_metrics(self, epoch, step, metrics):
        self._scalars({f"eval_{name}": value for name, value in metrics.items()}, step)

    def on_train_end(self):
        self.records.close()
