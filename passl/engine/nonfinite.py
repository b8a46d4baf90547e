"""Steps whose loss or gradients are NaN or infinite: who notices, what it says about the run, and what to do."""
from __future__ import annotations

from pathlib import Path
from typing import List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle

from passl import distributed
from passl.optim.gradients import norms
from passl.optim.groups import GroupedOptimizer


class Broken(NamedTuple):
    """A step that was left out, as if it had not been: what was not finite, why, and whether weights are broken."""

    what: str
    diagnosis: str
    weights: bool


def broken(named: Sequence[Tuple[str, Optional[paddle.Tensor]]]) -> List[str]:
    """Names of the tensors that hold NaN or infinity; None (no gradient) never does. One wait for the device."""
    present = [(name, tensor) for name, tensor in named if tensor is not None]
    finite = np.isfinite(norms([tensor for _, tensor in present]))
    return [name for (name, _), good in zip(present, finite) if not good]


def some(names: Sequence[str]) -> str:
    """The first name, and how many there are besides."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def examine(optimizer: GroupedOptimizer, loss_is_finite: bool) -> Broken:
    """What is known about a bad step, from its gradients (not when the loss was bad already) and the weights."""
    named = optimizer.named_parameters()
    gradients = broken([(name, value.grad) for name, value in named]) if loss_is_finite else []
    weights = broken(named)
    diagnosis = "all weights are finite, so the forward pass overflowed or an image holds NaN"
    if weights:
        diagnosis = f"weights are already broken, first in {some(weights)}"
    elif gradients:
        diagnosis = (f"the loss is finite and all weights are, but not the gradient of {some(gradients)}: the backward "
                     "pass overflowed, or NaN of an image or a layer was swallowed further on (by Paddle's ReLU on a "
                     "CPU)")
    return Broken("a gradient" if loss_is_finite else "the loss", diagnosis, bool(weights))


def failure(found: Broken, step: int, epoch: int, saved: Path, rates: Mapping[str, float]) -> distributed.JointFailure:
    """The error that ends a run: what became NaN and when, where the state of before is, and what usually helps."""
    remedy = "to look at; resume from an older checkpoint." if found.weights else "as it was before this step."
    isolated = "" if found.weights else " Global.max_nonfinite_steps leaves out isolated bad steps."
    return distributed.JointFailure(
        f"{found.what} became NaN or infinite at step {step} (epoch {epoch + 1}); {found.diagnosis}. State saved as "
        f"{saved}{' ' if found.weights else ', '}{remedy} Usual causes: a learning rate too high for the batch (now "
        f"{rates}), too short a warm-up, float16 overflow (try FP16.dtype bfloat16 or level O0).{isolated}")


def refuse_broken_state(state: Mapping[str, paddle.Tensor], names: Sequence[str]) -> None:
    """Raise JointFailure on all ranks when on any of them a tensor to be saved as `names` is not finite.

    Weights are equal on all ranks, batch-norm statistics need not be, hence the question to the others.
    """
    bad = broken(list(state.items()))
    if not distributed.all_ok(not bad):
        where = f"{some(bad)} of rank {distributed.rank()}" if bad else "a batch-norm statistic of another rank"
        raise distributed.JointFailure(
            f"{where} is NaN or infinite, though loss and gradients were finite; nothing was saved as "
            f"{' or '.join(names)}, so the last checkpoint is still good: resume from it with a lower learning rate "
            "(Optimizer.lr.learning_rate), and in fp32 (FP16.level=O0) if it was not")
