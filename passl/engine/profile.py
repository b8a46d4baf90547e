"""`passl-train -p "batch_range=[10, 20]"`: time the operators of some steps with Paddle's profiler."""
from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, Mapping

from passl.engine.callbacks import Callback
from passl.engine.log import LOGGER
from passl.errors import UserError

KEYS = ("batch_range", "profile_path", "sorted_key")
# PASSL's other keys, with what stands for them here.
WITHOUT_EFFECT = {"state": "CPU and, where there is one, GPU are always recorded",
                  "tracer_option": "operators are recorded at one level of detail",
                  "exit_on_finished": "training goes on; Global.max_train_step ends it"}
SORTED = ("CPUTotal", "CPUAvg", "CPUMax", "GPUTotal", "GPUAvg", "GPUMax")


class Profile(Callback):
    """Profiles the steps of `batch_range` [first, last), prints the operators and writes a Chrome trace.

    options: strings of the command line: batch_range ("[10, 20]"), profile_path (folder, default ./profile),
    sorted_key (an entry of SORTED). ValueError for any other.
    """

    def __init__(self, options: Mapping[str, str]):
        for key in options:
            if key in WITHOUT_EFFECT:
                LOGGER.warning(f"-p {key} has no effect: {WITHOUT_EFFECT[key]}")
            elif key not in KEYS:
                raise UserError(f"-p: unknown key '{key}'; known: {', '.join(KEYS)}")
        try:
            self.first, self.last = (int(value) for value in ast.literal_eval(options.get("batch_range", "[10, 20]")))
        except (ValueError, TypeError, SyntaxError):
            raise UserError(f"-p batch_range={options['batch_range']}: expected two steps such as [10, 20]") from None
        if not 0 <= self.first < self.last:
            raise UserError(f"-p batch_range=[{self.first}, {self.last}]: the second step must lie after the first")
        self.path = Path(options.get("profile_path", "./profile")).expanduser()
        self.sorted_key = options.get("sorted_key", "CPUTotal")
        if self.sorted_key not in SORTED:
            raise UserError(f"-p sorted_key={self.sorted_key}: choose one of {', '.join(SORTED)}")
        self.profiler: Any = None

    def on_train_start(self, trainer):
        import paddle.profiler as profiler

        self.path.mkdir(parents=True, exist_ok=True)
        self.profiler = profiler.Profiler(scheduler=(self.first, self.last),
                                          on_trace_ready=profiler.export_chrome_tracing(str(self.path)))
        self.profiler.start()

    def on_step(self, record):
        if self.profiler is None:
            return
        self.profiler.step()
        if record.step + 1 >= self.last:
            self._finish()

    def on_train_end(self):
        if self.profiler is not None:
            self._finish()

    def _finish(self):
        import paddle.profiler as profiler

        self.profiler.stop()
        self.profiler.summary(sorted_by=getattr(profiler.SortedKeys, self.sorted_key), op_detail=True, thread_sep=False,
                              time_unit="ms")
        LOGGER.info(f"profile of steps {self.first} to {self.last - 1} written to {self.path} (open in chrome://tracing)")
        self.profiler = None
