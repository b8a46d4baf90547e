"""The only training loop: config in, trained network and checkpoints out."""
from __future__ import annotations

import math
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import paddle

from passl import distributed
from passl.data import build_loader
from passl.engine import checkpoint, environment, log
from passl.engine.build import (
    build_callbacks,
    build_method,
    learning_rate_advice,
    prototype_advice,
    refuse_unsupported,
    scaled_optimizer,
    untrained_trunk_advice,
)
from passl.engine.callbacks import Callback, StepRecord
from passl.engine.evaluations import build_evaluations
from passl.engine.interrupt import Interrupt
from passl.engine.precision import Precision
from passl.models.recompute import recompute_stages
from passl.optim.groups import GroupedOptimizer

LOGGER = log.LOGGER


class NonFiniteLoss(distributed.JointFailure):
    """The loss became NaN or infinite and Global.max_nonfinite_steps does not allow for it."""


class Trainer:
    """Builds every part of a run from a checked config; `run` trains.

    config: what `passl.config.check` returns. The process group, if there is one, must be initialised.
    callbacks: more of them, besides those the config asks for.
    Attributes that callbacks may read: method, loader, step, total_steps, folder.
    """

    def __init__(self, config: Mapping[str, Any], callbacks: Sequence[Callback] = ()):
        self.config = config
        settings = config["Global"]
        refuse_unsupported(config, distributed.world_size())
        self.device = environment.select_device(settings["device"])
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        self.seed = settings["seed"]
        self.folder = Path(settings["output_dir"]) / config["Model"]["name"]
        self.accumulation = settings["accum_steps"]
        self.epochs = settings["epochs"]

        self.loader = build_loader(config["DataLoader"]["Train"], seed=self.seed, rank=self.rank,
                                   world_size=self.world_size, batch_size_divisor=self.accumulation)
        self.normalize = self.loader.normalizer
        self.iterations = len(self.loader)
        self.total_steps = min(self.epochs * self.iterations, settings["max_train_step"] or sys.maxsize)

        environment.seed_everything(self.seed)  # the same initial weights on every rank
        self.precision = Precision(config.get("FP16"), self.device)
        self.method = build_method(config, self.loader)
        self.precision.decorate(self.method.model)
        if settings["pretrained_model"]:
            self._start_from(settings["pretrained_model"])
        strategy = config["DistributedStrategy"]
        if strategy.get("recompute"):
            recompute_stages(self.method.model, strategy["recompute"]["names"],
                             strategy["recompute"]["layerlist_interval"])
        distributed.convert_batch_norm(self.method.model, strategy["sync_batch_norm"])
        self.optimizer = GroupedOptimizer(scaled_optimizer(config, self.loader.global_batch_size),
                                          self.method.trainable_parameters(), self.epochs, self.iterations,
                                          self.precision.master_weights)
        self.method.distribute(distributed.wrap)

        self.store = checkpoint.CheckpointStore(self.folder, settings["max_num_latest_checkpoint"])
        self.step = 0  # optimizer steps done
        self.epoch, self.consumed = 0, 0  # where the next step stands: epoch, and its samples used by all ranks
        self.iteration = 0  # steps done in this epoch
        self.best: Optional[float] = None
        self.nonfinite_steps = 0
        self.callbacks = [*build_callbacks(config, self.folder, sys.stdout.isatty()), *callbacks]
        self.evaluations = build_evaluations(config, self.loader, self.method, self.precision.autocast)
        start = checkpoint.choose(settings["checkpoint"], self.folder)
        if start:
            self.resume(start)
        elif not settings["pretrained_model"]:
            for warning in untrained_trunk_advice(self.method):
                LOGGER.warning(warning)

    # ------------------------------------------------------------------------------------------------- the loop
    def run(self) -> None:
        """Train to the last epoch (or max_train_step); on SIGTERM or SIGINT finish the step, save and return."""
        self._announce()
        self._tell("on_train_start", self)
        with Interrupt() as interrupt:
            try:
                while self.epoch < self.epochs and self.step < self.total_steps:
                    averages = self._train_epoch(interrupt)
                    if averages is None:
                        return
                    self._finish_epoch(averages)
            finally:
                for part in (self.loader, *self.evaluations):
                    part.close()
                self._tell("on_train_end")
        LOGGER.info(f"training finished: {self.step} steps, weights in {self.folder / 'latest.pdparams'}")

    def _train_epoch(self, interrupt: Interrupt) -> Optional[Dict[str, float]]:
        """Train what is left of the current epoch; its mean statistics, or None when the run stops in it."""
        epoch = self.epoch
        self.method.train()
        if self.consumed == 0:
            with self.precision.autocast():
                self.method.on_epoch_start(epoch, self._memory_pass if self.method.needs_memory_pass else None)
        averages: Dict[str, log.Average] = {}
        save_every = self.config["Global"]["save_step_interval"]
        mark = time.perf_counter()
        for host_batch in self.loader.epoch(epoch, consumed=self.consumed):
            data_time = time.perf_counter() - mark
            if self.step == 0:
                self._tell("on_first_batch", host_batch)
            rates = self.optimizer.set_step(self.step)
            batches = self._micro_batches(host_batch)
            loss, statistics, stop = self._train_step(batches, interrupt)

            record = StepRecord(epoch, self.epochs, self.iteration, self.iteration_count(), self.step, loss, rates,
                                len(host_batch["index"]) * self.world_size, time.perf_counter() - mark, data_time,
                                statistics)
            self.step += 1
            self.iteration += 1
            self.consumed += self.loader.global_batch_size
            for name, value in {"loss": loss, **statistics}.items():
                averages.setdefault(name, log.Average()).add(value)
            self._tell("on_step", record)
            if self._evaluate(epoch):
                self._save(["latest", "best"])
            limit = self.step >= self.total_steps and self.loader.sampler.iterations(self.consumed) > 0
            if stop or limit:
                reason = "Global.max_train_step" if limit else interrupt.requested or "another rank"
                self._save(["latest"])
                LOGGER.info(f"stopped by {reason}, saved after step {self.step}; resume with "
                            f"-o Global.checkpoint={self.folder / 'latest'}")
                return None
            if save_every and self.step % save_every == 0:
                self._save(["latest"])
            mark = time.perf_counter()
        return {name: average.value() for name, average in averages.items()}

    def _train_step(self, batches: List[Dict[str, Any]], interrupt: Interrupt):
        """One optimizer step: (mean loss over ranks, statistics, whether some rank was told to stop)."""
        environment.seed_everything(self.seed, self.rank, self.step)
        tolerant = self.config["Global"]["max_nonfinite_steps"] > 0
        undo = self.method.undo_point() if tolerant else None
        with self.precision.autocast():
            plans = self.method.plan(batches)
        losses, statistics = [], {}
        for number, (batch, plan) in enumerate(zip(batches, plans)):
            last = number == len(batches) - 1
            with nullcontext() if last else distributed.no_sync(self.method.network):
                with self.precision.autocast():
                    loss, values = self.method.training_step(batch, plan)
                losses.append(loss.detach().astype("float32"))
                if last:  # before the backward pass that the ranks reduce together
                    total, stop, finite = self._agree(paddle.stack(losses).mean(), interrupt)
                    if not finite:
                        self._nonfinite(total, undo)
                        return total, {}, stop
                self.precision.backward(loss / len(batches))
            for name, value in values.items():
                statistics[name] = statistics.get(name, 0.0) + value.detach() / len(batches)
        self.method.after_backward(self.step)
        if self.precision.step(self.optimizer):
            LOGGER.info(f"step {self.step} left out: its gradients overflowed float16, the loss scale is now "
                        f"{self.precision.scale():g} ({self.precision.skipped_steps} so far; some are normal)")
        self.optimizer.clear_grad()
        self.method.after_step(self.step)
        return total, statistics, stop

    def _agree(self, value: paddle.Tensor, interrupt: Interrupt):
        """Mean loss over ranks, whether any rank wants to stop, whether all losses are finite: one small collective."""
        mine = paddle.stack([paddle.where(value.isfinite(), value, paddle.zeros_like(value)),
                             (~value.isfinite()).astype("float32"),
                             paddle.to_tensor(float(interrupt.requested is not None))])
        total, broken, stop = distributed.all_reduce(mine).tolist()
        return (total / self.world_size if not broken else math.nan), stop > 0, not broken

    # ------------------------------------------------------------------------------------------------- batches
    def _on_device(self, host_batch: Mapping[str, Any]) -> Dict[str, Any]:
        """uint8 arrays to normalised float tensors; labels and indices to tensors."""
        batch: Dict[str, Any] = {}
        for key, value in host_batch.items():
            if key == "crops":
                batch[key] = [self.normalize(paddle.to_tensor(crop)) for crop in value]
            else:
                tensor = paddle.to_tensor(value)
                batch[key] = self.normalize(tensor) if key == "image" else tensor
        return batch

    def _micro_batches(self, host_batch: Mapping[str, Any]) -> List[Dict[str, Any]]:
        count = self.accumulation
        if count == 1:
            return [self._on_device(host_batch)]
        size = math.ceil(len(host_batch["index"]) / count)
        return [self._on_device({key: [crop[start:start + size] for crop in value] if key == "crops"
                                 else value[start:start + size] for key, value in host_batch.items()})
                for start in range(0, len(host_batch["index"]), size)]

    def _memory_pass(self):
        """One pass over this rank's training data in the order of the current epoch, as device batches."""
        for host_batch in self.loader.epoch(self.epoch):
            yield self._on_device(host_batch)

    def iteration_count(self) -> int:
        """Steps of the current epoch (fewer than usual after resuming on another number of ranks)."""
        return self.iteration + self.loader.sampler.iterations(self.consumed)

    # ------------------------------------------------------------------------------------------------- epoch ends
    def _finish_epoch(self, averages: Dict[str, float]) -> None:
        settings = self.config["Global"]
        epoch = self.epoch
        self._tell("on_epoch_end", epoch, averages)
        self.epoch, self.iteration, self.consumed = epoch + 1, 0, 0
        done = self.epoch >= self.epochs or self.step >= self.total_steps
        names = []
        if (epoch + 1) % settings["save_interval"] == 0 or done:
            names = ["latest"] if self.store.keep == 0 else ["latest", f"epoch_{epoch + 1}"]
        if self._evaluate(epoch, at_epoch_end=True, done=done):
            names = [*(names or ["latest"]), "best"]
        if names:
            self._save(names)

    def _evaluate(self, epoch: int, at_epoch_end: bool = False, done: bool = False) -> bool:
        """Run the evaluations that are due and report them; whether this is the best result so far."""
        metrics: Dict[str, float] = {}
        for evaluation in self.evaluations:
            if evaluation.interval.due(epoch + at_epoch_end, self.step, at_epoch_end, done):
                metrics.update(evaluation.run(self.method))
        if not metrics:
            return False
        self._tell("on_metrics", epoch, self.step, metrics)
        better = self.best is None or metrics["metric"] > self.best
        if better:
            self.best = metrics["metric"]
        LOGGER.info(f"[Eval][Epoch {epoch + 1}][best metric: {self.best:.5f}]")
        return better

    def _nonfinite(self, loss: float, undo) -> None:
        settings = self.config["Global"]
        self.nonfinite_steps += 1
        self.optimizer.clear_grad()
        if self.nonfinite_steps <= settings["max_nonfinite_steps"]:
            undo()
            LOGGER.warning(f"step {self.step}: the loss is not finite; step left out ({self.nonfinite_steps} of at "
                           f"most {settings['max_nonfinite_steps']}, Global.max_nonfinite_steps)")
            return
        self._save(["nonfinite"])
        broken = [name for name, parameter in self.method.model.named_parameters()
                  if not bool(paddle.isfinite(parameter).all())]
        state = (f"weights are already broken, first in {broken[0]}" if broken else
                 "all weights are finite, so the forward pass overflowed")
        raise NonFiniteLoss(
            f"the loss became NaN or infinite at step {self.step} (epoch {self.epoch + 1}); {state}. State saved as "
            f"{self.folder / 'nonfinite'}. Usual causes: a learning rate too high for the batch "
            f"(now {self.optimizer.set_step(self.step)}), too short a warm-up, float16 overflow (try FP16.dtype "
            "bfloat16 or level O0). Global.max_nonfinite_steps leaves out isolated bad steps.")

    # ------------------------------------------------------------------------------------------------- state
    def _save(self, names: List[str]) -> None:
        states = {"epoch": self.epoch, "iteration": self.iteration, "consumed": self.consumed,
                  "global_step": self.step, "best": self.best, "nonfinite_steps": self.nonfinite_steps,
                  "timestamp": int(time.time()), "precision": self.precision.state_dict(),
                  "method": self.method.shared_state(), "iterations_per_epoch": self.iterations}
        parameters = {name: tensor.numpy() for name, tensor in self.method.model.state_dict().items()}
        rank_state = {"method": self.method.rank_state()}
        self.store.save(names, parameters, self.optimizer.state_dict(), states, rank_state)
        for name in names:
            if name != "latest":
                LOGGER.info(f"Already save {name} model in {self.folder}")

    def resume(self, prefix: str) -> None:
        """Continue the run whose checkpoint `prefix` names, exactly when the number of ranks is unchanged."""
        loaded = checkpoint.load(prefix)
        own = {name: tuple(tensor.shape) for name, tensor in self.method.model.state_dict().items()}
        saved = {name: tuple(value.shape) for name, value in loaded.parameters.items()}
        if own != saved:
            name = sorted(set(own.items()) ^ set(saved.items()))[0][0]
            raise checkpoint.CheckpointNotUsable(
                f"{loaded.directory} holds another architecture: {name} is {saved.get(name, 'absent')} there and "
                f"{own.get(name, 'absent')} here; resume with the config saved beside it, or start a new run from its "
                "weights with Global.pretrained_model")
        if loaded.states["iterations_per_epoch"] != self.iterations and loaded.states["world_size"] == self.world_size:
            LOGGER.warning(f"an epoch had {loaded.states['iterations_per_epoch']} iterations when the checkpoint was "
                           f"written and has {self.iterations} now: data or batch size differ, so the run is not "
                           "an exact continuation")
        self.method.model.set_state_dict({name: paddle.to_tensor(value) for name, value in loaded.parameters.items()})
        self.optimizer.set_state_dict(loaded.optimizer)
        states = loaded.states
        self.precision.load_state_dict(states["precision"])
        self.method.load_shared_state(states["method"])
        note = self.method.load_rank_states([rank["method"] for rank in loaded.ranks], self.rank, self.world_size)
        self.epoch, self.iteration, self.consumed = states["epoch"], states["iteration"], states["consumed"]
        self.step, self.best, self.nonfinite_steps = states["global_step"], states["best"], states["nonfinite_steps"]
        LOGGER.info(f"Finish load checkpoint from {loaded.directory}: epoch {self.epoch + 1}, step {self.step}")
        if states["world_size"] != self.world_size:
            LOGGER.info(f"resumed on {self.world_size} ranks instead of {states['world_size']}, after {self.consumed} "
                        f"samples of the epoch{'; ' + note if note else ''}")
        elif note:
            LOGGER.info(note)

    def _start_from(self, path: str) -> None:
        from passl.models.pretrained import find_weights
        from passl.weights import load_into

        LOGGER.info(str(load_into(self.method.model, find_weights(path), part=self.method.pretrained_part)))

    # ------------------------------------------------------------------------------------------------- telling
    def _tell(self, event: str, *arguments) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(*arguments)

    def _announce(self) -> None:
        if self.precision.note:
            LOGGER.info(self.precision.note)
        batch = self.loader.global_batch_size
        LOGGER.info(f"{len(self.loader.dataset)} images, {self.iterations} iterations an epoch, global batch {batch} "
                    f"({self.world_size} x {self.loader.batch_size}), device {self.device}")
        for warning in (*learning_rate_advice(self.config, batch, self.method.published_rates),
                        *prototype_advice(self.config, batch, len(self.loader.dataset))):
            LOGGER.warning(warning)
