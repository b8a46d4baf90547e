"""Says while a run trains when it does not learn, why, and which setting to change (docs/troubleshooting.md)."""
from __future__ import annotations

import math
from collections import deque
from typing import Any, List, Mapping, Optional

from passl.engine.callbacks import Callback, StepRecord
from passl.engine.log import LOGGER
from passl.findings import warning

WINDOW = 100  # steps that are averaged before anything is said
FEWEST = 20  # steps that make a mean
PLATEAU = 500  # steps after which a loss still at ln K is worth a word


class LearningWatch(Callback):
    """Warns, each at most once a run, of a collapse, a plateau, a queue that harms, and prototypes released too early.

    For methods that have a `uniform_loss` and report `target_entropy`. Reads nothing but the step
    records, the config and what the protocol says of a method, changes nothing; the remedies are for the next start.
    """

    def on_train_start(self, trainer):
        self.uniform_loss = trainer.method.uniform_loss
        if self.uniform_loss is None:
            return
        self.config, self.heads = trainer.config, trainer.method.model.head_sizes
        self.limit = mean([math.log(size) for size in self.heads])  # of the target entropy: all predictions uniform
        self.images, self.global_batch = len(trainer.loader.dataset), trainer.loader.global_batch_size
        self.iterations, self.epochs, self.total_steps = trainer.iterations, trainer.epochs, trainer.total_steps
        self.frozen_steps = trainer.method.frozen_steps
        self.losses: deque = deque(maxlen=WINDOW)  # as multiples of the uniform loss, times ln K
        self.entropies: deque = deque(maxlen=WINDOW)
        self.told = set()
        self.loss_before_queue: Optional[float] = None
        self.steps_with_queue = 0
        if trainer.step >= self.frozen_steps or self.frozen_steps >= self.total_steps:
            self.told.add("release")  # nothing is released under these eyes

    def on_step(self, record: StepRecord):
        if self.uniform_loss is None or "target_entropy" not in record.values or not math.isfinite(record.loss):
            return
        joined = record.values.get("queue_used", 0.0) > 0
        if joined and not self.steps_with_queue and len(self.losses) >= FEWEST:
            self.loss_before_queue = mean(self.losses)
        self.steps_with_queue += joined
        self.losses.append(record.loss / self.uniform_loss * self.limit)
        self.entropies.append(record.values["target_entropy"])
        done = record.step + 1
        if len(self.losses) == WINDOW:
            self._collapse()
            self._plateau(done)
        if self.steps_with_queue == WINDOW:
            self._queue()
        if done >= self.frozen_steps and len(self.losses) >= FEWEST:
            self._release()

    # ---------------------------------------------------------------------------------------------- what is seen
    def _collapse(self) -> None:
        # Every loss, not their mean: a loss that falls or wanders past ln K has not settled there.
        distance = mean([abs(loss - self.limit) for loss in self.losses])
        if distance < 0.01 and mean(self.entropies) > 0.99 * self.limit:
            self._say("collapse", f"the run has collapsed: over the last {WINDOW} steps {self._numbers()}, so every "
                      "image belongs equally to every prototype and nothing is learnt",
                      "it rarely recovers. Start again with the first of these, and add the next when that does not "
                      "help", self._remedies(True))
            self.told |= {"plateau", "release"}  # the remedies are the same

    def _plateau(self, done: int) -> None:
        # No assignment near uniform: those would be the beginning of a collapse.
        if done >= PLATEAU and mean(self.losses) >= 0.99 * self.limit and max(self.entropies) <= 0.99 * self.limit:
            self._say("plateau", f"the loss is on a plateau at ln K after {done} steps: over the last {WINDOW} "
                      f"{self._numbers()}. Assignments still tell images apart, so this is not a collapse",
                      "on little data it often ends by itself: watch whether the loss begins to fall. If it does not, "
                      "start again with these", self._remedies(done >= self.frozen_steps))

    def _queue(self) -> None:
        if self.loss_before_queue is None or mean(self.losses) <= self.loss_before_queue + 0.01:
            return
        length = self.config["Model"]["queue_length"]
        starts = self.config["Model"].get("epoch_queue_starts", 15)
        half = length // 2 - length // 2 % self.global_batch
        later = max(starts + 1, 2 * starts)
        remedies = [f"Model.queue_length={half}"] * (half >= self.global_batch)
        remedies += [f"Model.epoch_queue_starts={later}"] * (later < self.epochs)
        self._say("queue", f"the loss has risen since the queue joined: {self.loss_before_queue:.3f} on average before "
                  f"and {mean(self.losses):.3f} in the {WINDOW} steps after. It should fall",
                  "the stored embeddings are too old for a network that changes fast. If it stays up, resume from "
                  "before that with a shorter queue, a later one, or none", [*remedies, "Model.queue_length=0"])

    def _release(self) -> None:
        longer = self._longer_freeze()
        if mean(self.losses) >= 0.99 * self.limit and longer:
            self._say("release", f"the prototypes are released after {self.frozen_steps} steps, while the loss is "
                      f"still at ln K: over the last {len(self.losses)} {self._numbers()}",
                      "if it does not begin to fall soon, keep them still until it is clearly below",
                      longer)
        self.told.add("release")

    def _say(self, what: str, problem: str, why: str, overrides: List[str]) -> None:
        if what not in self.told:
            self.told.add(what)
            LOGGER.warning(f"{warning(problem, why, *overrides)}. docs/troubleshooting.md tells more")

    def _numbers(self) -> str:
        sizes = f"ln {self.heads[0]}" if len(set(self.heads)) == 1 else f"mean of ln {self.heads}"
        return (f"the mean loss is {mean(self.losses):.3f} and the target entropy {mean(self.entropies):.3f} nats, "
                f"with {sizes} = {self.limit:.3f}")

    # ---------------------------------------------------------------------------------------------- what helps
    def _longer_freeze(self) -> List[str]:
        """Twice as long, in epochs; all epochs when that is the rest of the run; nothing when nothing is longer."""
        if self.frozen_steps >= self.epochs * self.iterations:
            return []
        twice = max(1, math.ceil(2 * self.frozen_steps / self.iterations))
        return [f"Model.freeze_prototypes_epochs={min(twice, self.epochs)}"]

    def _remedies(self, released: bool) -> List[str]:
        """Overrides in the order in which to try them, without those that the config has already."""
        model, backbone = self.config["Model"], self.config["Model"]["backbone"]
        epsilon = model.get("epsilon", 0.05)
        remedies = [f"Model.epsilon={0.03 if epsilon > 0.03 else 0.02}"] * (epsilon > 0.02)
        remedies += self._longer_freeze() if released else []
        fewer = [min(size, max(2, min(size // 2, self.images // 50))) for size in self.heads]
        if max(self.heads) > self.images // 50 and fewer != self.heads:
            several = isinstance(backbone["nmb_prototypes"], list)
            remedies.append(f"Model.backbone.nmb_prototypes={str(fewer).replace(' ', '') if several else fewer[0]}")
        crops = gentler_crops(self.config["DataLoader"]["Train"]["dataset"])
        remedies += [f"DataLoader.Train.dataset.min_scale_crops={crops}"] * bool(crops)
        remedies += ["Model.assignment=hard"] * (model.get("assignment", "soft") != "hard")
        if backbone.get("hidden_mlp") and backbone.get("head_batch_norm", True):
            remedies.append("Model.backbone.head_batch_norm=False")
        rate = self.config["Optimizer"]["lr"].get("learning_rate")
        remedies += [f"Optimizer.lr.learning_rate={rate / 2:g}"] * bool(rate)
        return remedies


def gentler_crops(dataset: Mapping[str, Any]) -> Optional[str]:
    """min_scale_crops with at least 0.3 of the image in the first group, as an override takes it."""
    smallest, largest = dataset.get("min_scale_crops"), dataset.get("max_scale_crops")
    if not smallest or not largest or smallest[0] >= 0.3 or largest[0] <= 0.3:
        return None
    return f"[{','.join(f'{value:g}' for value in (0.3, *smallest[1:]))}]"


def mean(values) -> float:
    return sum(values) / len(values)
