"""The only training loop: config in, trained network and checkpoints out."""
from __future__ import annotations

import math
import shlex
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import paddle

from passl import distributed
from passl.config import Config
from passl.data import build_loader
from passl.engine import advice, checkpoint, environment, log, nonfinite, resume, run_state
from passl.engine.agreement import agree
from passl.engine.batches import on_device, split
from passl.engine.build import build_callbacks, build_method, refuse_unsupported, scaled_optimizer
from passl.engine.callbacks import Callback, StepRecord
from passl.engine.evaluations import build_evaluations
from passl.engine.interrupt import Interrupt
from passl.engine.precision import Precision
from passl.models.recompute import recompute_stages
from passl.optim.groups import GroupedOptimizer

LOGGER = log.LOGGER
FIRST_PASS = -1  # the epoch number of a pass's random crops, which no training has; later passes count down


class Trainer:
    """Builds every part of a run from a checked config; `run` trains.

    config: what `passl.config.check` returns. Paddle's device must be selected (`environment.select_device`) and the
    process group, if there is one, initialised: NCCL joins on the device that is selected at that moment.
    callbacks: more of them, besides those the config asks for.
    Attributes that callbacks may read: method, loader, step, total_steps, folder.
    """

    def __init__(self, config: Config, callbacks: Sequence[Callback] = ()):
        self.config = config
        settings = config["Global"]
        refuse_unsupported(config, distributed.world_size())
        self.device = paddle.get_device().split(":")[0]
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        self.seed = settings["seed"]
        self.folder = Path(settings["output_dir"]) / config["Model"]["name"]
        self.accumulation = settings["accum_steps"]
        self.epochs = settings["epochs"]
        start = resume.choose(settings, self.folder)

        self.loader = build_loader(config["DataLoader"]["Train"], seed=self.seed, rank=self.rank,
                                   world_size=self.world_size, batch_size_divisor=self.accumulation)
        self.normalize = self.loader.normalizer
        self.iterations = len(self.loader)

        environment.seed_everything(self.seed)  # the same initial weights on every rank
        self.precision = Precision(config.get("FP16"), self.device)
        self.method = build_method(config, self.loader)
        if settings["pretrained_model"]:
            self._start_from(settings["pretrained_model"])
        strategy = config["DistributedStrategy"]
        if strategy.get("recompute"):
            recompute_stages(self.method.model.trunk, strategy["recompute"]["names"],
                             strategy["recompute"]["layerlist_interval"])
        distributed.convert_batch_norm(self.method.model, strategy["sync_batch_norm"])
        # Ranks that do not share statistics keep running ones of their own, each of its share of the images.
        self.own_statistics = distributed.group_size(strategy["sync_batch_norm"], self.world_size) < self.world_size
        self.optimizer = GroupedOptimizer(scaled_optimizer(config, self.loader.global_batch_size),
                                          self.method.trainable_parameters(), self.epochs, self.iterations)
        self.method.distribute(distributed.wrap)

        self.store = checkpoint.CheckpointStore(self.folder, settings["max_num_latest_checkpoint"])
        self.step = 0  # optimizer steps done, on whatever number of ranks; `position` is the place in the schedule
        self.epoch, self.consumed = 0, 0  # where the next step stands: epoch, and its samples used by all ranks
        self.iteration = 0  # steps done in this epoch
        self.averages: Dict[str, log.Average] = {}  # statistics of this epoch so far
        self.best: Optional[float] = None
        self.nonfinite_steps = 0
        self.callbacks = [*build_callbacks(config, self.folder, sys.stdout.isatty()), *callbacks]
        self.evaluations = build_evaluations(config, self.loader, self.method, self.precision.autocast)
        if start:
            resume.restore(self, start)
        elif not settings["pretrained_model"]:
            for warning in advice.untrained_trunk_advice(self.method):
                LOGGER.warning(warning)

    @property
    def position(self) -> int:
        """Steps that lie behind in the schedule: all of them, were the whole run made with the present batch."""
        return self.epoch * self.iterations + self.consumed // self.loader.global_batch_size

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run, those done and those to come."""
        to_come = 0
        if self.epoch < self.epochs:
            to_come = ((self.epochs - self.epoch - 1) * self.iterations
                       + self.loader.sampler.iterations(self.consumed))
        limit = self.config["Global"]["max_train_step"]
        return min(self.step + to_come, max(self.step, limit or sys.maxsize))

    def _at_limit(self) -> bool:
        limit = self.config["Global"]["max_train_step"]
        return limit is not None and self.step >= limit

    # ------------------------------------------------------------------------------------------------- the loop
    def run(self) -> None:
        """Train to the last epoch (or max_train_step); on SIGTERM or SIGINT finish the step, save and return."""
        agree(self.folder, self.config, {"training images": len(self.loader.dataset), "iterations": self.iterations,
                                         "epoch": self.epoch, "samples used": self.consumed, "step": self.step})
        self._open_folder()
        self._announce()
        self._tell("on_train_start", self)
        with Interrupt() as interrupt:
            try:
                if self._run_epochs(interrupt):
                    return
            finally:
                for part in (self.loader, *self.evaluations):
                    part.close()
                self._tell("on_train_end")
        LOGGER.info(f"training finished: {self.step} steps, weights in {self.folder / 'latest.pdparams'}")

    def _run_epochs(self, interrupt: Interrupt) -> bool:
        """Train and finish epoch after epoch; True when the run was stopped before its end, and saved."""
        if self.epoch >= self.epochs:
            LOGGER.warning(f"nothing is left to train: {self.epoch} of Global.epochs {self.epochs} are done")
        while self.epoch < self.epochs and not self._at_limit():
            if self._train_epoch(interrupt):
                return True
            saved = self._finish_epoch()
            if self.epoch < self.epochs and not self._at_limit():
                # A signal during evaluation or saving; the next epoch may begin with a long clustering pass.
                asked = paddle.to_tensor([int(interrupt.requested is not None)], dtype="int32")
                if distributed.all_reduce(asked, "max").item():
                    interrupt.request("another rank")
                    self._stop(interrupt.requested, saved)
                    return True
        return False

    def _train_epoch(self, interrupt: Interrupt) -> bool:
        """Train what is left of the current epoch; True when the run stops in it, and is saved."""
        epoch = self.epoch
        self.method.train()
        if self.consumed == 0:
            with self.precision.autocast():
                self.method.on_epoch_start(epoch, self._pass if self.method.needs_memory_pass else None)
        save_every = self.config["Global"]["save_step_interval"]
        for mark, host_batch in self._host_batches(epoch):
            data_time = time.perf_counter() - mark
            if self.step == 0:
                self._tell("on_first_batch", host_batch)
            rates = self.optimizer.set_step(self.position)
            batches = self._micro_batches(host_batch)
            loss, statistics, stop = self._train_step(batches, interrupt)

            record = StepRecord(epoch, self.epochs, self.iteration, self.iteration_count(), self.step, loss, rates,
                                len(host_batch["index"]) * self.world_size, time.perf_counter() - mark, data_time,
                                statistics)
            self.step += 1
            self.iteration += 1
            self.consumed += self.loader.global_batch_size
            if math.isfinite(loss):  # else the step was left out
                for name, value in {"loss": loss, **statistics}.items():
                    self.averages.setdefault(name, log.Average()).add(value)
            self._tell("on_step", record)
            if self._evaluate(epoch):
                self._save(["latest", "best"])
            limit = self._at_limit() and self.loader.sampler.iterations(self.consumed) > 0
            if stop or limit:
                if stop:
                    interrupt.request("another rank")
                self._stop("Global.max_train_step" if limit else interrupt.requested)
                return True
            if save_every and self.step % save_every == 0:
                self._save(["latest"])
        return False

    def _stop(self, reason: str, saved: bool = False) -> None:
        """Save, unless that is done, and say how to go on."""
        if not saved:
            self._save(["latest"])
        command = ["passl-train", "-c", str(self.folder / "config.yaml"), "-o",
                   f"Global.checkpoint={self.folder / 'latest'}"]
        if self._at_limit():
            command.append("Global.max_train_step=None")
        LOGGER.info(f"stopped by {reason}, saved after step {self.step}; resume with {shlex.join(command)}")

    def _train_step(self, batches: List[Dict[str, Any]], interrupt: Interrupt):
        """One optimizer step: (mean loss over ranks, statistics, whether some rank was told to stop)."""
        environment.seed_everything(self.seed, self.rank, self.step)
        undo = self.method.undo_point()
        self.method.before_step(self.step)
        with self.precision.autocast():
            plans = self.method.plan(batches)
        sizes = [batch["index"].shape[0] for batch in batches]
        shares = [size / sum(sizes) for size in sizes]  # the last micro-batch of an epoch may be smaller
        losses, statistics = [], {}
        for number, (batch, plan) in enumerate(zip(batches, plans)):
            last = number == len(batches) - 1
            with nullcontext() if last else distributed.no_sync(self.method.network):
                with self.precision.autocast():
                    loss, values = self.method.training_step(batch, plan)
                losses.append(loss.detach().astype("float32"))
                if last:
                    agreement = self._agree(sum(share * value for share, value in zip(shares, losses)), interrupt)
                self.precision.backward(loss * shares[number])
            for name, value in values.items():
                statistics[name] = statistics.get(name, 0.0) + value.detach() * shares[number]
        broken, total, stop = agreement.tolist()  # only now: on a GPU the backward pass is being computed meanwhile
        total = math.nan if broken else total / self.world_size
        if not broken:
            self.method.after_backward(self.position)
        # Gradients are those the ranks have reduced, equal on all of them, so that all decide alike. Under loss scaling
        # they are scaled still, and an overflow is the scaler's business.
        if broken or (self.precision.scaler is None and not self.optimizer.gradients_finite()):
            self._nonfinite(undo, loss_is_finite=not broken)
            return total, {}, stop > 0
        if self.precision.step(self.optimizer):
            LOGGER.info(f"step {self.step} left out: its gradients overflowed float16, the loss scale is now "
                        f"{self.precision.scale():g} ({self.precision.skipped_steps} so far; some are normal)")
        self.optimizer.clear_grad()
        self.method.after_step(self.step)
        return total, statistics, stop > 0

    def _agree(self, value: paddle.Tensor, interrupt: Interrupt):
        """[ranks whose loss is not finite, sum of the other losses, ranks that want to stop]: one small collective."""
        mine = paddle.stack([(~value.isfinite()).astype("float32"),
                             paddle.where(value.isfinite(), value, paddle.zeros_like(value)),
                             paddle.to_tensor(float(interrupt.requested is not None))])
        return distributed.all_reduce(mine)

    # ------------------------------------------------------------------------------------------------- batches
    def _host_batches(self, epoch: int):
        """What is left of the epoch: (time when the wait began, batch), and in between the passes the method asks for.

        A pass belongs to the step after it: a run that is resumed there makes the pass first, unless the state of the
        method tells that it is done.
        """
        batches = self.loader.epoch(epoch, consumed=self.consumed)
        while self.loader.sampler.iterations(self.consumed) > 0:
            if self.method.pass_is_due(self.position):
                start = time.perf_counter()
                with self.precision.autocast():
                    self.method.on_pass(self.position, partial(self._pass, FIRST_PASS - 1 - self.position))
                batches = self.loader.epoch(epoch, consumed=self.consumed)  # the pass took the loader's workers
                LOGGER.info(f"pass over the training images before step {self.step}: "
                            f"{time.perf_counter() - start:.1f} s")
            yield time.perf_counter(), next(batches)

    def _micro_batches(self, host_batch: Mapping[str, Any]) -> List[Dict[str, Any]]:
        return [on_device(part, self.normalize) for part in split(host_batch, self.accumulation)]

    def _pass(self, augmentation_epoch: int = FIRST_PASS):
        """One pass over this rank's training data, as device batches: the current epoch's order, but crops of its own.

        With the epoch's own crops labels would come from the very pixels that are then trained on them.
        """
        for host_batch in self.loader.epoch(self.epoch, augmentation_epoch=augmentation_epoch):
            yield on_device(host_batch, self.normalize)

    def iteration_count(self) -> int:
        """Steps of the current epoch (fewer than usual after resuming on another number of ranks)."""
        return self.iteration + self.loader.sampler.iterations(self.consumed)

    # ------------------------------------------------------------------------------------------------- epoch ends
    def _finish_epoch(self) -> bool:
        """Report, evaluate and save what is due after an epoch; whether a checkpoint was written."""
        settings = self.config["Global"]
        epoch = self.epoch
        self._tell("on_epoch_end", epoch, {name: average.value() for name, average in self.averages.items()})
        self.epoch, self.iteration, self.consumed, self.averages = epoch + 1, 0, 0, {}
        done = self.epoch >= self.epochs or self._at_limit()
        names = []
        if (epoch + 1) % settings["save_interval"] == 0 or done:
            names = ["latest"] if self.store.keep == 0 else ["latest", f"epoch_{epoch + 1}"]
        if self._evaluate(epoch, at_epoch_end=True, done=done):
            names = [*(names or ["latest"]), "best"]
        if names:
            self._save(names)
        return bool(names)

    def _evaluate(self, epoch: int, at_epoch_end: bool = False, done: bool = False) -> bool:
        """Run the evaluations that are due and report them; whether this is the best result so far."""
        due = [evaluation for evaluation in self.evaluations
               if evaluation.interval.due(epoch + at_epoch_end, self.step, at_epoch_end, done)]
        if not due:
            return False
        metrics: Dict[str, float] = {}
        # One network is evaluated, the one that is saved, although ranks without common statistics train their own.
        with distributed.statistics_of_rank_0(self.method.model) if self.own_statistics else nullcontext():
            for evaluation in due:
                metrics.update(evaluation.run(self.method, partial(self._tell, "on_evaluation_batch", epoch)))
        self._tell("on_metrics", epoch, self.step, metrics)
        # Rank 0 decides: the ranks save together, and their last bits may differ.
        better = distributed.gather_objects(self.best is None or metrics["metric"] > self.best)[0]
        if better:
            self.best = metrics["metric"]
        LOGGER.info(f"[Eval][Epoch {epoch + 1}][best metric: {self.best:.5f}]")
        return better

    def _nonfinite(self, undo, loss_is_finite: bool) -> None:
        """Leave the step out as if it had not been, or stop: at once when the weights themselves are broken."""
        settings = self.config["Global"]
        self.nonfinite_steps += 1
        undo()  # before anything is looked at or saved: the forward pass has put NaN in batch norm and queue
        named = self.optimizer.named_parameters()
        gradients = nonfinite.broken([(name, value.grad) for name, value in named]) if loss_is_finite else []
        weights = nonfinite.broken(named)
        self.optimizer.clear_grad()
        what = "a gradient" if loss_is_finite else "the loss"
        state = nonfinite.diagnosis(gradients, weights)
        if self.nonfinite_steps <= settings["max_nonfinite_steps"] and not weights:
            LOGGER.warning(f"step {self.step}: {what} is not finite ({state}); step left out ({self.nonfinite_steps} "
                           f"of at most {settings['max_nonfinite_steps']}, Global.max_nonfinite_steps)")
            return
        self._save(["nonfinite"])
        raise nonfinite.failure(what, self.step, self.epoch, state, self.folder / "nonfinite", bool(weights),
                                self.optimizer.set_step(self.position))

    # ------------------------------------------------------------------------------------------------- state
    def _save(self, names: List[str]) -> None:
        if names != ["nonfinite"]:
            nonfinite.refuse_broken_state(self.method.model.state_dict(), names)
        self.store.save(names, self.step, partial(run_state.shared_files, self), run_state.rank_state(self))
        for name in names:
            if name != "latest":
                LOGGER.info(f"Already save {name} model in {self.folder}")

    def _start_from(self, path: str) -> None:
        from passl.weights import load_into
        from passl.weights.locate import find_weights

        model = self.method.model
        report = load_into(model, find_weights(path), part=self.method.pretrained_part)
        LOGGER.info(str(report))
        LOGGER.info(f"There are {len(report.loaded)}/{len(model.state_dict())} variables loaded into backbone with "
                    f"{report.source}")

    # ------------------------------------------------------------------------------------------------- telling
    def _tell(self, event: str, *arguments) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(*arguments)

    def _open_folder(self) -> None:
        """Now that every part is built: remove what Global.overwrite gives up, and write down the settings."""
        settings = self.config["Global"]
        if self.rank == 0:
            if settings["overwrite"] and not settings["checkpoint"]:
                checkpoint.discard(self.folder)
            self.config.save(self.folder / "config.yaml")

    def _announce(self) -> None:
        if self.precision.note:
            LOGGER.info(self.precision.note)
        if self.device == "gpu":
            LOGGER.info("float32 matrix products may use TF32" if self.config["Global"]["allow_tf32"] else
                        "float32 matrix products keep float32's precision (Global.allow_tf32 True: TF32, faster)")
        batch = self.loader.global_batch_size
        LOGGER.info(f"{len(self.loader.dataset)} images, {self.iterations} iterations an epoch, global batch {batch} "
                    f"({self.world_size} x {self.loader.batch_size}), device {self.device}")
        for warning in advice.before_training(self.config, self.method, batch, len(self.loader.dataset)):
            LOGGER.warning(warning)
