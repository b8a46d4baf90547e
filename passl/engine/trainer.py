"""The only training loop: config in, trained network and checkpoints out."""
from __future__ import annotations

import math
import shlex
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import paddle

from passl import distributed
from passl.config import Config
from passl.data import build_loader
from passl.engine import checkpoint, environment, log, resume
from passl.engine.batches import Feed
from passl.engine.callbacks import Callback, StepRecord
from passl.engine.components import build_callbacks, build_companions, build_evaluations, build_method
from passl.engine.interrupt import Interrupt
from passl.engine.precision import Precision
from passl.engine.progress import NamedParts, Progress
from passl.engine.step import Broken, Stepper, failure, refuse_broken_state
from passl.findings import refuse
from passl.models.recompute import recompute_stages
from passl.optim.groups import GroupedOptimizer
from passl.preflight.facts import Facts, run_facts, scaled_optimizer
from passl.preflight.rules import config_findings, run_findings

LOGGER = log.LOGGER


class Trainer:
    """Builds every part of a run from a checked config; `run` trains.

    config: what `passl.config.check` returns. Paddle's device must be selected (`environment.select_device`) and the
    process group, if there is one, initialised: NCCL joins on the device that is selected at that moment.
    callbacks: more of them, besides those the config asks for; on rank 0 only, unless they are `on_every_rank`.
    Attributes that callbacks may read: config, method, loader, iterations, epochs, step, total_steps, folder.
    """

    def __init__(self, config: Config, callbacks: Sequence[Callback] = ()):
        self.config = config
        self.settings = settings = config["Global"]
        rank, world_size = distributed.rank(), distributed.world_size()
        refuse(config_findings(config, world_size))
        self.folder = Path(settings["output_dir"]) / config["Model"]["name"]
        start = resume.choose(settings, self.folder)

        self.loader = build_loader(config["DataLoader"]["Train"], seed=settings["seed"], rank=rank,
                                   world_size=world_size, batch_size_divisor=settings["accum_steps"])
        self.run_facts = run_facts(config, self.loader, world_size)
        self.epochs, self.iterations = self.run_facts.epochs, self.run_facts.iterations_per_epoch

        environment.seed_everything(settings["seed"])  # the same initial weights on every rank
        self.precision = Precision(config.get("FP16"), paddle.get_device().split(":")[0])
        self.method = build_method(config, self.loader)
        companions = build_companions(config, self.method, self.loader.dataset, self.run_facts)
        if settings["pretrained_model"]:
            self._start_from(settings["pretrained_model"])
        strategy = config["DistributedStrategy"]
        if strategy.get("recompute"):
            recompute_stages(self.method.model.trunk, strategy["recompute"]["names"],
                             strategy["recompute"]["layerlist_interval"])
        distributed.convert_batch_norm(self.method.model, strategy["sync_batch_norm"])
        # Ranks that do not share statistics keep running ones of their own, each of its share of the images.
        self.own_statistics = distributed.group_size(strategy["sync_batch_norm"], world_size) < world_size
        self.optimizer = GroupedOptimizer(scaled_optimizer(config, self.loader.global_batch_size),
                                          self.method.trainable_parameters(), self.epochs, self.iterations)
        self.method.distribute(distributed.wrap)

        self.progress = Progress(self.loader.sampler, self.epochs, settings["max_train_step"])
        self.parts = NamedParts(config, self.method, self.optimizer, self.precision, self.progress, companions,
                                self.run_facts, self.own_statistics)
        self.store = checkpoint.CheckpointStore(self.folder, settings["max_num_latest_checkpoint"])
        self.feed = Feed(self.loader, self.method, self.progress, self.precision.autocast, settings["accum_steps"])
        self.make_step = Stepper(self.method, self.optimizer, self.precision, companions, settings["seed"])
        self.callbacks = [callback for callback in
                          (*build_callbacks(config, self.folder, sys.stdout.isatty()), *callbacks)
                          if rank == 0 or callback.on_every_rank]
        self.evaluations = build_evaluations(config, self.loader, self.method, companions, self.precision.autocast)
        self.findings = run_findings(Facts(config, self.method, self.run_facts, resumes=bool(start)))
        refuse(self.findings)
        if start:
            resume.restore(self.parts, start)

    @property
    def step(self) -> int:
        return self.progress.step

    @property
    def total_steps(self) -> int:
        return self.progress.total_steps

    # ------------------------------------------------------------------------------------------------- the loop
    def run(self) -> None:
        """Train to the last epoch (or max_train_step); on SIGTERM or SIGINT finish the step, save and return."""
        progress = self.progress
        resume.agree(self.folder, self.config, {
            "training images": len(self.loader.dataset), "iterations": self.iterations, "epoch": progress.epoch,
            "samples used": progress.consumed, "step": progress.step})
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
        LOGGER.info(f"training finished: {progress.step} steps, weights in {self.folder / 'latest.pdparams'}")

    def _run_epochs(self, interrupt: Interrupt) -> bool:
        """Train and finish epoch after epoch; True when the run was stopped before its end, and saved."""
        progress = self.progress
        if progress.epoch >= self.epochs:
            LOGGER.warning(f"nothing is left to train: {progress.epoch} of Global.epochs {self.epochs} are done")
        while not progress.done:
            if self._train_epoch(interrupt):
                return True
            saved = self._finish_epoch()
            if not progress.done:
                # A signal during evaluation or saving; the next epoch may begin with a long clustering pass.
                asked = paddle.to_tensor([int(interrupt.requested is not None)], dtype="int32")
                if distributed.all_reduce(asked, "max").item():
                    interrupt.request("another rank")
                    self._stop(interrupt.requested, saved)
                    return True
        return False

    def _train_epoch(self, interrupt: Interrupt) -> bool:
        """Train what is left of the current epoch; True when the run stops in it, and is saved."""
        progress, save_every = self.progress, self.settings["save_step_interval"]
        self.method.train()
        for mark, host_batch in self.feed.rest_of_epoch():
            data_time = time.perf_counter() - mark
            if progress.step == 0:
                self._tell("on_first_batch", host_batch)
            rates = self.optimizer.set_step(progress.position)
            batches = self.feed.micro_batches(host_batch)
            outcome = self.make_step(batches, progress.step, progress.position, interrupt)
            if outcome.broken:
                self._leave_out(outcome.broken, rates)
            record = StepRecord(progress.epoch, self.epochs, progress.iteration, progress.iterations, progress.step,
                                outcome.loss, rates, len(host_batch["index"]) * distributed.world_size(),
                                time.perf_counter() - mark, data_time, outcome.statistics)
            progress.count_step({"loss": outcome.loss, **outcome.statistics} if math.isfinite(outcome.loss) else {})
            self._tell("on_step", record)
            if self._evaluate(progress.epoch):
                self._save(["latest", "best"])
            limit = progress.at_limit and progress.left_in_epoch > 0
            if outcome.stop or limit:
                if outcome.stop:
                    interrupt.request("another rank")
                self._stop("Global.max_train_step" if limit else interrupt.requested)
                return True
            if save_every and progress.step % save_every == 0:
                self._save(["latest"])
        return False

    def _stop(self, reason: Optional[str], saved: bool = False) -> None:
        """Save, unless that is done, and say how to go on."""
        if not saved:
            self._save(["latest"])
        command = ["passl-train", "-c", str(self.folder / "config.yaml"), "-o",
                   f"Global.checkpoint={self.folder / 'latest'}"]
        if self.progress.at_limit:
            command.append("Global.max_train_step=None")
        LOGGER.info(f"stopped by {reason}, saved after step {self.step}; resume with {shlex.join(command)}")

    def _leave_out(self, broken: Broken, rates: Dict[str, float]) -> None:
        """Go on without a step that was not finite, or stop: at once when the weights themselves are broken."""
        progress, allowed = self.progress, self.settings["max_nonfinite_steps"]
        progress.nonfinite_steps += 1
        if progress.nonfinite_steps <= allowed and not broken.weights:
            LOGGER.warning(f"step {self.step}: {broken.what} is not finite ({broken.diagnosis}); step left out "
                           f"({progress.nonfinite_steps} of at most {allowed}, Global.max_nonfinite_steps)")
            return
        self._save(["nonfinite"])
        raise failure(broken, self.step, progress.epoch, self.folder / "nonfinite", rates)

    # ------------------------------------------------------------------------------------------------- epoch ends
    def _finish_epoch(self) -> bool:
        """Report, evaluate and save what is due after an epoch; whether a checkpoint was written."""
        progress, epoch = self.progress, self.progress.epoch
        self._tell("on_epoch_end", epoch, {name: average.value() for name, average in progress.averages.items()})
        progress.start_epoch(epoch + 1)
        names = []
        if (epoch + 1) % self.settings["save_interval"] == 0 or progress.done:
            names = ["latest"] if self.store.keep == 0 else ["latest", f"epoch_{epoch + 1}"]
        if self._evaluate(epoch, at_epoch_end=True):
            names = [*(names or ["latest"]), "best"]
        if names:
            self._save(names)
        return bool(names)

    def _evaluate(self, epoch: int, at_epoch_end: bool = False) -> bool:
        """Run the evaluations that are due and report them; whether this is the best result so far."""
        progress = self.progress
        due = [evaluation for evaluation in self.evaluations
               if evaluation.interval.due(epoch + at_epoch_end, self.step, at_epoch_end, progress.done)]
        if not due:
            return False
        metrics: Dict[str, float] = {}
        # One network is evaluated, the one that is saved, although ranks without common statistics train their own.
        with distributed.statistics_of_rank_0(self.method.model) if self.own_statistics else nullcontext():
            for evaluation in due:
                metrics.update(evaluation.run(self.method, partial(self._tell, "on_evaluation_batch", epoch)))
        self._tell("on_metrics", epoch, self.step, metrics)
        # Rank 0 decides: the ranks save together, and their last bits may differ.
        better = distributed.gather_objects(progress.best is None or metrics["metric"] > progress.best)[0]
        if better:
            progress.best = metrics["metric"]
        LOGGER.info(f"[Eval][Epoch {epoch + 1}][best metric: {progress.best:.5f}]")
        return better

    # ------------------------------------------------------------------------------------------------- state
    def _save(self, names: List[str]) -> None:
        if names != ["nonfinite"]:
            refuse_broken_state(self.method.model.state_dict(), names)
        self.store.save(names, self.step, self.parts.shared_files, self.parts.rank_state())
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
    def _tell(self, event: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(*arguments)

    def _open_folder(self) -> None:
        """Now that every part is built: remove what Global.overwrite gives up, and write down the settings."""
        if distributed.rank() == 0:
            if self.settings["overwrite"] and not self.settings["checkpoint"]:
                checkpoint.discard(self.folder)
            self.config.save(self.folder / "config.yaml")

    def _announce(self) -> None:
        device = paddle.get_device().split(":")[0]
        if self.precision.note:
            LOGGER.info(self.precision.note)
        if device == "gpu":
            LOGGER.info("float32 matrix products may use TF32" if self.settings["allow_tf32"] else
                        "float32 matrix products keep float32's precision (Global.allow_tf32 True: TF32, faster)")
        run = self.run_facts
        LOGGER.info(f"{run.dataset_size} images, {self.iterations} iterations an epoch, global batch "
                    f"{run.global_batch} ({run.world_size} x {run.batch_size}), device {device}")
        for finding in self.findings:
            LOGGER.log(log.LEVELS[finding.level], finding)
