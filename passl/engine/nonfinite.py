"""Steps whose loss or gradients are NaN or infinite: who notices, what it says about the run, and what to do."""
from __future__ import annotations

from pathlib import Path
from typing import List, Mapping, Optional, Sequence, Tuple

import numpy as np
import paddle

from passl import distributed
from passl.optim.gradients import norms


def broken(named: Sequence[Tuple[str, Optional[paddle.Tensor]]]) -> List[str]:
    """Names of the tensors that hold NaN or infinity; None (no gradient) never does. One wait for the device."""
    present = [(name, tensor) for name, tensor in named if tensor is not None]
    finite = np.isfinite(norms([tensor for _, tensor in present]))
    return [name for (name, _), good in zip(present, finite) if not good]


def some(names: Sequence[str]) -> str:
    """The first name, and how many there are besides."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def diagnosis(bad_gradients: Sequence[str], bad_weights: Sequence[str]) -> str:
    """What is known about a bad step: from its gradients (none when the loss was bad already) and the weights."""
    if bad_weights:
        return f"weights are already broken, first in {some(bad_weights)}"
    if bad_gradients:
        return (f"the loss is finite and all weights are, but not the gradient of {some(bad_gradients)}: the backward "
                "pass overflowed, or NaN of an image or a layer was swallowed further on (by Paddle's ReLU on a CPU)")
    return "all weights are finite, so the forward pass overflowed or an image holds NaN"


def failure(what: str, step: int, epoch: int, state: str, saved: Path, weights_broken: bool,
            rates: Mapping[str, float]) -> distributed.JointFailure:
    """The error that ends a run: what became NaN and when, where the state of before is, and what usually helps.

    state: of `diagnosis`. saved: path of the state. rates: the learning rates of this step.
    """
    if weights_broken:
        remedy, isolated = f"State saved as {saved} to look at; resume from an older checkpoint.", ""
    else:
        remedy = f"State saved as {saved}, as it was before this step."
        isolated = " Global.max_nonfinite_steps leaves out isolated bad steps."
    return distributed.JointFailure(
        f"{what} became NaN or infinite at step {step} (epoch {epoch + 1}); {state}. {remedy} Usual causes: a learning "
        f"rate too high for the batch (now {rates}), too short a warm-up, float16 overflow (try FP16.dtype bfloat16 or "
        f"level O0).{isolated}")


def refuse_broken_state(state: Mapping[str, paddle.Tensor], names: Sequence[str]) -> None:
    """Raise JointFailure on all ranks when on any of them a tensor to be saved as `names` is not finite.

    Weights are equal on all ranks, batch-norm statistics need not be, hence the question to the others.
    """
    bad = broken(list(state.items()))
    if not distributed.all_ok(not bad):
        where = f"{some(bad)} of rank {distributed.rank()}" if bad else "a batch-norm statistic of another rank"
        raise distributed.JointFailure(f"{where} is NaN or infinite, though loss and gradients were finite; nothing was saved as "
                             f"{' or '.join(names)}, so the last checkpoint is still good: resume from it with a lower "
                             "learning rate (Optimizer.lr.learning_rate), and in fp32 (FP16.level=O0) if it was not")
