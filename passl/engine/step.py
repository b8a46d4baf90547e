"""One optimizer step: forward and backward of all micro-batches, what the ranks agree on, and the optimizer."""
from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

import paddle

from passl import distributed
from passl.engine import environment, nonfinite
from passl.engine.interrupt import Interrupt
from passl.engine.log import LOGGER
from passl.engine.precision import Precision
from passl.methods.base import Method, Step
from passl.optim.groups import GroupedOptimizer


class Outcome(NamedTuple):
    """loss: mean over ranks, NaN when it was not finite. stop: some rank was told to. statistics: none when broken."""

    loss: float
    stop: bool
    statistics: Dict[str, Any]
    broken: Optional[nonfinite.Broken] = None


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
            found = nonfinite.examine(self.optimizer, loss_is_finite=not broken)
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
