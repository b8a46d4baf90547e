"""Log lines in PASSL's grammar, on the terminal and in `train.log` (rank 0 only)."""
from __future__ import annotations

import logging
import math
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Dict, List, Optional

from passl.engine.callbacks import Callback, StepRecord

LOGGER = logging.getLogger("passl")
LEVELS = {"note": logging.INFO, "warning": logging.WARNING}  # of a passl.findings.Finding


class _TerminalHandler(logging.Handler):
    """Writes through tqdm, so that a line never lands in the middle of a progress bar."""

    def emit(self, record):
        from tqdm import tqdm

        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # a name that a terminal cannot show stops no run
        text = self.format(record).encode(encoding, "backslashreplace").decode(encoding)
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()


def set_up(folder: Optional[Path], name: str = "train", rank: int = 0) -> logging.Logger:
    """Logger with PASSL's prefix `[YYYY/MM/DD HH:MM:SS] passl INFO: `; only rank 0 speaks."""
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
        handler.close()
    LOGGER.propagate = False  # Paddle configures the root logger; every line would appear twice
    LOGGER.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    formatter = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%Y/%m/%d %H:%M:%S")
    handlers: List[logging.Handler] = [_TerminalHandler()]
    if folder is not None and rank == 0:
        handlers.append(logging.FileHandler(folder / f"{name}.log", encoding="utf-8", errors="surrogateescape"))
    for handler in handlers:
        handler.setFormatter(formatter)
        LOGGER.addHandler(handler)
    return LOGGER


class Average:
    """Mean of numbers or of device scalars, which are summed on the device and fetched only when `value` is called."""

    def __init__(self, total: float = 0.0, count: int = 0):
        self.total, self.count = total, count

    def add(self, value) -> None:
        self.total, self.count = self.total + value, self.count + 1

    def value(self) -> float:
        return float(self.total) / max(1, self.count)

    def state(self):
        """What `Average(*state)` continues from."""
        return [float(self.total), self.count]


class LogLines(Callback):
    """`[Train][Epoch e/E][Iter: i/N] lr: , loss: , ..., batch_cost: , reader_cost: , ips: , eta: ` every few steps,
    `[Eval][Epoch e][Iter: i/N]loss: , batch_cost: , reader_cost: , ips: ` every few batches, and averages."""

    def __init__(self, every: int):
        self.every = max(1, every)

    def on_train_start(self, trainer):
        self.remaining_steps = trainer.total_steps - trainer.step
        self.window: Dict[str, Average] = {}
        self.epochs = trainer.epochs
        self.window_time, self.window_data, self.window_images, self.window_steps = 0.0, 0.0, 0, 0
        self.speed = None  # seconds per step, smoothed, for the eta

    def on_step(self, record: StepRecord):
        if math.isfinite(record.loss):  # else the step was left out
            for name, value in {"loss": record.loss, **record.values}.items():
                self.window.setdefault(name, Average()).add(value)
        self.window_time += record.step_time
        self.window_data += record.data_time
        self.window_images += record.images
        self.window_steps += 1
        self.remaining_steps -= 1
        self.speed = record.step_time if self.speed is None else 0.95 * self.speed + 0.05 * record.step_time
        if record.iteration % self.every == 0 or record.iteration == record.iterations - 1:
            self._print(record)

    def _print(self, record: StepRecord):
        import paddle

        values = ", ".join(f"{name}: {average.value():.5f}" for name, average in self.window.items())
        rates = ", ".join(f"lr{'' if name == 'default' else '[' + name + ']'}: {rate:.6f}"
                          for name, rate in record.learning_rates.items())
        memory = ""
        if paddle.is_compiled_with_cuda() and paddle.device.get_device().startswith("gpu"):
            memory = f"max mem: {paddle.device.cuda.max_memory_allocated() / 2 ** 30:.2f} GB, "
        LOGGER.info(
            f"[Train][Epoch {record.epoch + 1}/{record.epochs}][Iter: {record.iteration}/{record.iterations}] "
            f"{rates}, {values}, batch_cost: {self.window_time / self.window_steps:.5f}s, "
            f"reader_cost: {self.window_data / self.window_steps:.5f}s, "
            f"ips: {self.window_images / max(self.window_time, 1e-9):.5f} images/sec, {memory}"
            f"eta: {timedelta(seconds=int(self.remaining_steps * self.speed))}")
        self.window = {}
        self.window_time, self.window_data, self.window_images, self.window_steps = 0.0, 0.0, 0, 0

    def on_epoch_end(self, epoch, averages):
        values = ", ".join(f"{name}: {value:.5f}" for name, value in averages.items())
        LOGGER.info(f"[Train][Epoch {epoch + 1}/{self.epochs}][Avg]{values}")

    def on_evaluation_batch(self, epoch, record):
        if record.iteration == 0:
            self.evaluation = []
        self.evaluation.append(record)
        if record.iteration % self.every and record.iteration != record.iterations - 1:
            return
        seconds, data, images = (sum(part) for part in zip(*((one.step_time, one.data_time, one.images)
                                                             for one in self.evaluation)))
        values = "".join(f"{name}: {float(value):.5f}, " for name, value in record.values.items())
        LOGGER.info(f"[Eval][Epoch {epoch + 1}][Iter: {record.iteration}/{record.iterations}]{values}"
                    f"batch_cost: {seconds / len(self.evaluation):.5f}s, reader_cost: "
                    f"{data / len(self.evaluation):.5f}s, ips: {images / max(seconds, 1e-9):.5f} images/sec")
        self.evaluation = []

    def on_metrics(self, epoch, step, metrics):
        values = ", ".join(f"{name}: {value:.5f}" for name, value in metrics.items())
        LOGGER.info(f"[Eval][Epoch {epoch + 1}][Avg]{values}")


class ProgressBar(Callback):
    """One bar over the whole run on a terminal: images/s, share of time spent waiting for data, eta."""

    def on_train_start(self, trainer):
        from tqdm import tqdm

        self.bar = tqdm(total=trainer.total_steps, initial=trainer.step, unit="step", dynamic_ncols=True, leave=False,
                        file=sys.stdout)
        self.last_refresh = 0.0

    def on_step(self, record: StepRecord):
        self.bar.update(1)
        if time.monotonic() - self.last_refresh > 0.5:
            self.last_refresh = time.monotonic()
            self.bar.set_postfix_str(
                f"epoch {record.epoch + 1}/{record.epochs} loss {record.loss:.3f} "
                f"{record.images / max(record.step_time, 1e-9):.0f} img/s "
                f"data wait {100 * record.data_time / max(record.step_time, 1e-9):.0f}%")

    def on_train_end(self):
        self.bar.close()
