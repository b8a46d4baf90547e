"""Mixed precision: autocast, loss scaling and the order in which gradients are unscaled, clipped and applied."""
from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Dict, Mapping, Optional

import numpy as np
import paddle


class Precision:
    """FP16 section of the config: level O0 (fp32), O1 or O2 (autocast of some or nearly all operators).

    On a CPU Paddle's autocast and loss scaling do nothing; levels above O0 then run in fp32, and `note` says so.
    bfloat16 has the exponent range of fp32, so its loss is not scaled.
    """

    def __init__(self, section: Optional[Mapping[str, Any]], device: str, scaler: Any = None):
        section = dict(section or {"level": "O0"})
        self.level = section.get("level", "O2")
        self.dtype = section.get("dtype", "float16")
        self.white_list = section.get("fp16_custom_white_list")
        self.black_list = section.get("fp16_custom_black_list")
        self.note = None
        if device == "cpu" and self.level != "O0":
            self.note = f"FP16.level {self.level}: Paddle has no mixed precision on a CPU, running in fp32"
            self.level = "O0"
        self.skipped_steps = 0
        self.scaler = scaler
        if scaler is None and self.level != "O0" and self.dtype == "float16":
            self.scaler = paddle.amp.GradScaler(**dict(section.get("GradScaler") or {}))

    def autocast(self):
        if self.level == "O0":
            return nullcontext()
        return paddle.amp.auto_cast(level=self.level, dtype=self.dtype, custom_white_list=self.white_list,
                                    custom_black_list=self.black_list)

    def backward(self, loss: paddle.Tensor) -> None:
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, optimizer) -> bool:
        """unscale -> clip -> step (LARC reads true gradient norms) -> update of the loss scale.

        A step whose gradients overflowed is left out by the scaler: returns True, and `skipped_steps` counts it.
        """
        if self.scaler is None:
            optimizer.clip_gradients()
            for inner in optimizer.optimizers:
                inner.step()
            return False
        for inner in optimizer.optimizers:
            self.scaler.unscale_(inner)
        optimizer.clip_gradients()
        for inner in optimizer.optimizers:
            self.scaler.step(inner)
        before = self.scale()
        self.scaler.update()
        skipped = self.scale() < before
        self.skipped_steps += skipped
        return skipped

    def scale(self) -> float:
        """The current loss scale (1 without scaling)."""
        return 1.0 if self.scaler is None else float(np.asarray(self.scaler.state_dict()["scale"]).item())

    def state_dict(self) -> Dict[str, Any]:
        if self.scaler is None:
            return {}
        plain = {key: value.item() if hasattr(value, "item") else value for key, value in
                 self.scaler.state_dict().items()}
        return {"scaler": plain, "skipped_steps": self.skipped_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.skipped_steps = state.get("skipped_steps", 0)
        if self.scaler is not None and state.get("scaler"):
            self.scaler.load_state_dict(dict(state["scaler"]))
