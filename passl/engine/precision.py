"""Mixed precision: autocast, loss scaling and the order in which gradients are unscaled, clipped and applied."""
from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Dict, Mapping, Optional

import paddle

from passl.engine.loss_scaler import LossScaler


class Precision:
    """FP16 section of the config: level O0 (fp32), O1 or O2 (autocast of some or of nearly all operators).

    Weights are fp32 at every level, and so are their gradients, what LARC reads and the checkpoint. Half-precision
    weights with fp32 masters, which O2 elsewhere means, save nothing (12 bytes a weight with momentum either way), and
    prototypes are normalised in place, which would pass the masters by.

    On a CPU Paddle's autocast does nothing; levels above O0 then run in fp32, and `note` says so.
    bfloat16 has the exponent range of fp32, so its loss is not scaled.
    scaler: another LossScaler than the section asks for, on any device.
    """

    def __init__(self, section: Optional[Mapping[str, Any]], device: str, scaler: Optional[LossScaler] = None):
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
            self.scaler = LossScaler(**dict(section.get("GradScaler") or {}))

    def autocast(self):
        if self.level == "O0":
            return nullcontext()
        return paddle.amp.auto_cast(level=self.level, dtype=self.dtype, custom_white_list=self.white_list,
                                    custom_black_list=self.black_list)

    def backward(self, loss: paddle.Tensor) -> None:
        (loss if self.scaler is None else self.scaler.scale_loss(loss)).backward()

    def step(self, optimizer) -> bool:
        """unscale -> clip -> step (LARC reads true gradient norms) -> update of the loss scale.

        A step in which any gradient of any parameter group overflowed is left out as a whole: returns True, and
        `skipped_steps` counts it.
        """
        finite = self.scaler is None or self.scaler.unscale(optimizer.parameters)
        if finite:
            optimizer.clip_gradients()
            for inner in optimizer.optimizers:
                inner.step()
        else:
            self.skipped_steps += 1
        if self.scaler is not None:
            self.scaler.update(finite)
        return not finite

    def scale(self) -> float:
        """The current loss scale (1 without scaling)."""
        return 1.0 if self.scaler is None else self.scaler.scale

    def state_dict(self) -> Dict[str, Any]:
        if self.scaler is None:
            return {}
        return {"scaler": self.scaler.state_dict(), "skipped_steps": self.skipped_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.skipped_steps = state.get("skipped_steps", 0)
        if self.scaler is not None and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
