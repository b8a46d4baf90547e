"""One optimizer step, and what is said of one whose loss or gradients are NaN or infinite."""
from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle

from passl import distributed
from passl.engine import environment
from passl.engine.interrupt import Interrupt
from passl.engine.log import LOGGER
from passl.engine.precision import Precision
from passl.methods.base import Method, Step
from passl.optim.gradients import norms
from passl.optim.groups import GroupedOptimizer


class Broken(NamedTuple):
    """A step that was left out, as if it had not been: what was not finite, why, and whether weights are broken."""

    what: str
    diagnosis: str
    weights: bool


class Outcome(NamedTuple):
    """loss: mean over ranks, NaN when it was not finite. stop: some rank was told to. statistics: none when broken."""

    loss: float
    stop: bool
    statistics: Dict[str, Any]
    broken: Optional[Broken] = None


class Stepper:
    """Makes the steps of a run.

    companions: told of every step's trunk features; their statistics join the method's. seed: with rank and step it
    decides every random number of the step, so that resuming needs no generator state.
    """

    def __init__(self, method: Method, optimizer: GroupedOptimizer, precision: Precision,
                 companions: Mapping[str, Any], seed: int):
        self.method, self.optimizer, self.precision = method, optimizer, precision
        self.companions, self.seed = list(companions.values()), seed

    def __call__(self, batches: Sequence[Dict[str, Any]], step: int, position: int, interrupt: Interrupt) -> Outcome:
        environment.seed_everything(self.seed, distributed.rank(), step)
        undo = self.method.undo_point()
        self.method.before_step(step)
        for companion in self.companions:
            companion.before_step()
        with self.precision.autocast():
            plans = self.method.plan(batches)
        sizes = [batch["index"].shape[0] for batch in batches]
        shares = [size / sum(sizes) for size in sizes]  # the last micro-batch of an epoch may be smaller
        losses: List[paddle.Tensor] = []
        statistics: Dict[str, Any] = {}
        for number, (batch, plan) in enumerate(zip(batches, plans)):
            last = number == len(batches) - 1
            with nullcontext() if last else distributed.no_sync(self.method.network):
                with self.precision.autocast():
                    result = Step(*self.method.training_step(batch, plan))
                values = dict(result.statistics)
                for companion in self.companions:
                    values.update(companion.observe(result.features, batch["index"].numpy()))
                losses.append(result.loss.detach().astype("float32"))
                if last:
                    agreement = agree(sum(share * value for share, value in zip(shares, losses)), interrupt)
                self.precision.backward(result.loss * shares[number])
            for name, value in values.items():
                statistics[name] = statistics.get(name, 0.0) + value.detach() * shares[number]
        broken, total, stop = agreement.tolist()  # only now: on a GPU the backward pass is being computed meanwhile
        loss = math.nan if broken else total / distributed.world_size()
        if not broken:
            self.method.after_backward(position)
        # Gradients are those the ranks have reduced, equal on all of them, so that all decide alike. Under loss scaling
        # they are scaled still, and an overflow is the scaler's business.
        if broken or (self.precision.scaler is None and not self.optimizer.gradients_finite()):
            undo()  # before anything is looked at or saved: the forward pass has put NaN in batch norm and queue
            found = examine(self.optimizer, loss_is_finite=not broken)
            self.optimizer.clear_grad()
            return Outcome(loss, stop > 0, {}, found)
        if self.precision.step(self.optimizer):
            LOGGER.info(f"step {step} left out: its gradients overflowed float16, the loss scale is now "
                        f"{self.precision.scale():g} ({self.precision.skipped_steps} so far; some are normal)")
        self.optimizer.clear_grad()
        self.method.after_step(step)
        for companion in self.companions:
            companion.after_step()
        return Outcome(loss, stop > 0, statistics)


def agree(loss: paddle.Tensor, interrupt: Interrupt) -> paddle.Tensor:
    """[ranks whose loss is not finite, sum of the other losses, ranks that want to stop]: one small collective."""
    return distributed.all_reduce(paddle.stack([
        (~loss.isfinite()).astype("float32"), paddle.where(loss.isfinite(), loss, paddle.zeros_like(loss)),
        paddle.to_tensor(float(interrupt.requested is not None))]))


# ------------------------------------------------------------------------------------- what is not finite
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
