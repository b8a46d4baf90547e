"""Mixed precision: autocast, loss scaling and the order in which gradients are unscaled, clipped and applied."""
from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Dict, Iterable, Mapping, Optional

import paddle

from passl.distributed import JointFailure
from passl.errors import UserError

# The reference has no floor and would leave out steps for ever; with this scale a gradient must pass 10^7 to overflow.
SMALLEST_SCALE = 2.0 ** -8
STATE = ("scale", "incr_count", "decr_count")


class LossScaler:
    """Multiplies the loss lest small float16 gradients vanish, and leaves out the steps in which large ones overflow.

    All gradients of a step are unscaled and judged together, whatever parameter groups they belong to: the step is
    applied to all weights or to none. Ranks agree without a word, since a gradient averaged over ranks is infinite or
    NaN on all of them as soon as it is on one. The parameters are the config's FP16.GradScaler section.

    The scale grows by incr_ratio after incr_every_n_steps clean steps in a row, up to max_loss_scaling, and shrinks by
    decr_ratio after decr_every_n_nan_or_inf overflowing ones in a row. The defaults are the reference's.
    """

    def __init__(self, init_loss_scaling: float = 65536.0, incr_ratio: float = 2.0, decr_ratio: float = 0.5,
                 incr_every_n_steps: int = 2000, decr_every_n_nan_or_inf: int = 1,
                 max_loss_scaling: float = 2.0 ** 24, use_dynamic_loss_scaling: bool = True):
        if init_loss_scaling > max_loss_scaling:
            raise UserError(f"FP16.GradScaler.init_loss_scaling {init_loss_scaling:g} is above max_loss_scaling "
                            f"{max_loss_scaling:g}: raise the second or lower the first")
        self.scale = init_loss_scaling
        self.incr_ratio, self.decr_ratio = incr_ratio, decr_ratio
        self.incr_every, self.decr_every = incr_every_n_steps, decr_every_n_nan_or_inf
        self.max_scale = max_loss_scaling
        self.dynamic = use_dynamic_loss_scaling
        self.incr_count = self.decr_count = 0

    def scale_loss(self, loss: paddle.Tensor) -> paddle.Tensor:
        """The loss to call backward on, in fp32: a float16 one would overflow by the very factor."""
        return loss.astype("float32") * self.scale

    @paddle.no_grad()
    def unscale(self, parameters: Iterable[paddle.Tensor]) -> bool:
        """Divide all gradients by the scale in place; whether they are finite. Waits for the device once."""
        sums = []
        for parameter in parameters:
            if parameter.grad is not None and not parameter.stop_gradient:
                parameter.grad.scale_(1.0 / self.scale)
                # A sum is finite when all its terms are, and half the work of testing them one by one. Terms that are
                # finite but add up to more than fp32 holds would be no step to take either.
                sums.append(parameter.grad.sum().astype("float32"))
        return not sums or bool(paddle.stack(sums).isfinite().all())

    def update(self, finite: bool) -> None:
        """Adapt the scale after a step; raises JointFailure when it has become so small that it cannot help."""
        if not self.dynamic:
            return
        if finite:
            self.incr_count, self.decr_count = self.incr_count + 1, 0
            if self.incr_count >= self.incr_every:
                self.scale, self.incr_count = min(self.scale * self.incr_ratio, self.max_scale), 0
            return
        self.incr_count, self.decr_count = 0, self.decr_count + 1
        if self.decr_count >= self.decr_every:
            self.scale, self.decr_count = self.scale * self.decr_ratio, 0
        if self.scale < SMALLEST_SCALE:
            raise JointFailure(
                f"gradients are infinite or NaN even at a loss scale of {self.scale / self.decr_ratio:g}, so it is not "
                "float16's range that they leave: look at the learning rate and the warm-up, and try FP16.level=O0. "
                "Resume from the last checkpoint")

    def state_dict(self) -> Dict[str, Any]:
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with a saved scale; a static one stays what the config says, a lower ceiling holds at once."""
        if self.dynamic:
            self.scale = min(float(state["scale"]), self.max_scale)
            self.incr_count, self.decr_count = int(state["incr_count"]), int(state["decr_count"])


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
