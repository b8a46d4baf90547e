"""SwAV: swapping assignments between views (Caron et al. 2020, arXiv 2006.09882)."""
from __future__ import annotations

import math
from typing import Any, Dict, List, Literal, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F

from passl.clustering.sinkhorn import harden, sinkhorn_unchecked
from passl.errors import UserError
from passl.findings import Finding, warning
from passl.methods.base import (
    Method,
    RunFacts,
    Step,
    check_not_negative,
    check_positive,
    check_prototypes,
    features_of_images,
    freeze_length,
    full_precision,
)
from passl.methods.embedding_queue import EmbeddingQueue
from passl.models.build import build_network
from passl.registry import METHODS


@full_precision
def swapped_loss(scores: paddle.Tensor, targets: paddle.Tensor, crops_for_assign: Sequence[int],
                 temperature: float = 0.1) -> paddle.Tensor:
    """Swapped prediction loss (SwAV eq. 1-2 with multi-crop, section 3.2).

    scores: [V, B, K] prototype scores of all V crops. targets: [A, B, K] assignments of the crops `crops_for_assign`
    (no gradient). Each assignment is predicted from every other crop; mean over pairs and images.
    """
    log_probabilities = F.log_softmax(scores / temperature, axis=-1)
    total = log_probabilities.sum(axis=0)
    loss = 0.0
    for target, crop in zip(targets, crops_for_assign):
        # Sum over the other crops at once: one product per assignment crop instead of one per pair.
        others = total - log_probabilities[crop]
        loss = loss - (target * others).sum(axis=-1).mean()
    return loss / (len(crops_for_assign) * (scores.shape[0] - 1))


def assignment_statistics(targets: paddle.Tensor, counts: paddle.Tensor,
                          marginal_error: paddle.Tensor) -> Dict[str, paddle.Tensor]:
    """Scalars that tell a healthy run from a collapsed one.

    targets: [A, B, K] soft assignments, also when the loss is given hardened ones, whose entropy is always 0;
      counts: [A, K] images whose first choice a prototype is.

    target_entropy: mean entropy of an assignment in nats (ln K: every prototype equally likely, i.e. collapse).
    prototypes_used: share of prototypes that are some image's first choice on this rank, per assignment crop;
      at most B/K.
    """
    entropy = -(targets * paddle.log(targets.clip(min=1e-30))).sum(axis=-1).mean()
    return {"target_entropy": entropy, "prototypes_used": (counts > 0).astype("float32").mean(),
            "marginal_error": marginal_error.mean()}


def check_crops(crops_for_assign: Sequence[int], nmb_crops: Optional[Sequence[int]], crop_count: Optional[int]) -> None:
    """Refuse assignment crops that do not exist, and PASSL's second crop count when it contradicts the data section."""
    if nmb_crops is not None and crop_count is not None and sum(nmb_crops) != crop_count:
        raise UserError(f"Model.nmb_crops {list(nmb_crops)} promises {sum(nmb_crops)} crops an image but "
                        f"DataLoader.Train.dataset.num_crops gives {crop_count}: make them equal or drop nmb_crops")
    if crop_count is None:
        return
    wrong = [crop for crop in crops_for_assign if not 0 <= crop < crop_count]
    if wrong or not crops_for_assign or len(set(crops_for_assign)) != len(crops_for_assign):
        raise UserError(f"Model.crops_for_assign {list(crops_for_assign)} must name different crops between 0 and "
                        f"{crop_count - 1}")


@METHODS.register("SwAV", "swav_{trunk}_pretrain", context=("run",),
                  legacy={"apex": "synchronised batch norm is set in DistributedStrategy.sync_batch_norm"})
class SwAV(Method):
    """Queue, joint Sinkhorn assignment and swapped loss on a multi-crop network.

    backbone: type and options of the network (passl/models/build.py).
    temperature: of the predictions (0.1 in every published run).
    epsilon: Sinkhorn's entropy weight; 0.05 published. Lower it (0.03) when the loss stays at ln K.
    sinkhorn_iterations: 3 published; fewer fail to converge.
    crops_for_assign: crops whose assignments are computed; normally the large ones.
    nmb_crops: PASSL's repetition of the data section's num_crops; checked against it when given.
    queue_length: past embeddings over all ranks that join the assignment; 0 is none. Wanted when the global batch is
      well below the number of prototypes; too long or too early a queue makes the loss rise.
    epoch_queue_starts: first epoch (from 0) that fills the queue.
    freeze_prototypes_niters: steps during which prototypes get no gradient; one epoch is usual.
    freeze_prototypes_epochs: the same in epochs; replaces freeze_prototypes_niters when set.
    assignment: 'soft' (published) or 'hard' (one-hot; converges faster, transfers slightly worse).
    """

    published_rates = ("MomentumLARC", 0.3, 0.8)  # 4.8 at 4096, 0.6 at 256, 4.8 at 1536 (w5)

    def __init__(self, backbone: Dict[str, Any], temperature: float = 0.1, epsilon: float = 0.05,
                 sinkhorn_iterations: int = 3, crops_for_assign: Sequence[int] = (0, 1),
                 nmb_crops: Optional[List[int]] = None, queue_length: int = 0, epoch_queue_starts: int = 15,
                 freeze_prototypes_niters: int = 313, freeze_prototypes_epochs: Optional[float] = None,
                 assignment: Literal["soft", "hard"] = "soft", run: RunFacts = RunFacts()):
        if not backbone.get("nmb_prototypes"):
            raise UserError("SwAV needs prototypes: set Model.backbone.nmb_prototypes (about 10 per expected class; "
                            "3000 for ImageNet)")
        if not isinstance(backbone["nmb_prototypes"], int):
            raise UserError("SwAV has one prototype head: Model.backbone.nmb_prototypes must be a single number")
        check_prototypes(backbone["nmb_prototypes"])
        check_positive(temperature=(temperature, 0.1), epsilon=(epsilon, 0.05),
                       sinkhorn_iterations=(sinkhorn_iterations, 3))
        check_not_negative(epoch_queue_starts=epoch_queue_starts, freeze_prototypes_niters=freeze_prototypes_niters,
                           queue_length=queue_length, freeze_prototypes_epochs=freeze_prototypes_epochs or 0)
        check_crops(crops_for_assign, nmb_crops, run.crop_count)
        if run.crop_count is not None and run.crop_count < 2:
            raise UserError("SwAV predicts one crop's assignment from another: set num_crops to at least 2 in all")
        self.model = build_network(backbone, "pretrain")
        self.network = self.model
        self.temperature = temperature
        self.epsilon = epsilon
        self.sinkhorn_iterations = sinkhorn_iterations
        self.crops_for_assign = list(crops_for_assign)
        # Rows of the network's output that get an assignment, and the queue that joins each: here the assignment crops.
        self.assigned_views = list(crops_for_assign)
        self.queue_of_view = list(range(len(self.assigned_views)))
        self.epoch_queue_starts = epoch_queue_starts
        self.frozen_steps = freeze_length(freeze_prototypes_niters, freeze_prototypes_epochs, run)
        self.is_frozen_by_epochs = freeze_prototypes_epochs is not None
        self.hard = assignment == "hard"
        self.uniform_loss = math.log(backbone["nmb_prototypes"])
        self.epoch = 0
        self.usage = paddle.zeros([backbone["nmb_prototypes"]])  # images per prototype (first choice) this epoch
        self.queue = None
        self.asked_queue_length = queue_length
        if queue_length:
            self.queue = EmbeddingQueue(len(self.crops_for_assign), queue_length, run.global_batch, run.world_size,
                                        backbone["output_dim"], paddle.get_default_dtype())

    # ---------------------------------------------------------------------------------------------- one step
    def views(self, batch: Dict[str, Any]) -> Tuple[List[paddle.Tensor], Any]:
        """(what the network is given: the crops, and with Un-Mix mixtures of them; what `loss` must know of it)."""
        return batch["crops"], None

    def shows_image(self, view: int) -> bool:
        """Whether a view is of one image, and no mixture."""
        return True

    def loss(self, scores: paddle.Tensor, targets: paddle.Tensor, mixture: Any = None):
        """(loss, its named parts) from scores [V, B, K] of all views and targets [A, B, K] of the assigned ones.

        mixture: what `views` has returned beside them.
        """
        return swapped_loss(scores, targets, self.crops_for_assign, self.temperature), {}

    def training_step(self, batch, plan):
        views, mixture = self.views(batch)
        self.model.release_prototypes()
        self.model.normalize_prototypes()
        embedding, scores, features = self.network(views, with_features=True)
        embedding = embedding.detach().reshape([len(views), -1, embedding.shape[-1]])
        scores = scores.reshape([len(views), -1, scores.shape[-1]])
        targets, statistics = plan or self.assign(embedding, scores.detach())
        loss, parts = self.loss(scores, targets, mixture)
        return Step(loss, {**statistics, **parts}, features_of_images(features, views, self.shows_image))

    @paddle.no_grad()
    @full_precision
    def assign(self, embedding: paddle.Tensor, scores: paddle.Tensor):
        """Targets [A, B, K] and their statistics from the views' embeddings [V, B, D] and scores [V, B, K].

        Scores of the queue, when it is full, stand before the batch's; only the batch's rows are returned.
        """
        scores = paddle.stack([scores[view] for view in self.assigned_views])
        batch_size = scores.shape[1]
        if self.queue is not None and self.epoch >= self.epoch_queue_starts:
            if self.queue.usable:
                past = self.model.scores(self.queue.entries)
                scores = paddle.concat([paddle.stack([past[queue] for queue in self.queue_of_view]), scores], axis=1)
            own = self.assigned_views[:len(self.crops_for_assign)]
            self.queue.push(paddle.stack([embedding[view] for view in own]))
        soft, marginal_error = sinkhorn_unchecked(scores, self.epsilon, self.sinkhorn_iterations)
        soft = soft[:, -batch_size:]
        targets = harden(soft) if self.hard else soft
        counts = F.one_hot(targets.argmax(axis=-1), targets.shape[-1]).sum(axis=1)
        self.usage = self.usage + counts.sum(axis=0).astype(self.usage.dtype)
        statistics = assignment_statistics(soft, counts, marginal_error)
        if self.queue is not None:
            statistics["queue_used"] = paddle.full([], float(scores.shape[1] > batch_size))
        return targets, statistics

    def plan(self, batches):
        """Joint targets of a step that is split into micro-batches, so that the split does not change them.

        Costs one more forward pass without gradient per micro-batch; batch-norm statistics are those of the
        micro-batches, and the running statistics see every micro-batch twice.
        """
        if len(batches) == 1:
            return [None]
        self.model.normalize_prototypes()
        embeddings, scores = [], []
        with paddle.no_grad():
            for batch in batches:
                views, _ = self.views(batch)
                embedding, score = self.network(views)
                embeddings.append(embedding.reshape([len(views), -1, embedding.shape[-1]]))
                scores.append(score.reshape([len(views), -1, score.shape[-1]]))
        sizes = [score.shape[1] for score in scores]
        targets, statistics = self.assign(paddle.concat(embeddings, axis=1), paddle.concat(scores, axis=1))
        return [(part, statistics) for part in paddle.split(targets, sizes, axis=1)]

    # ---------------------------------------------------------------------------------------------- epochs, state
    def advice(self, run):
        prototypes, images, queued = self.usage.shape[0], run.dataset_size, self.queue.total_length if self.queue else 0
        joins = self._steps_before_queue(run, queued) if queued else run.steps
        assigned, findings = run.global_batch + (queued if joins < run.steps else 0), []
        if run.global_batch == 1:
            findings.append(self._single_image(run, joins))
        if prototypes > images:
            findings.append(warning(f"Model.backbone.nmb_prototypes {prototypes} exceeds the {images} training images",
                                    "most prototypes stay empty, about 10 per expected class is usual",
                                    f"Model.backbone.nmb_prototypes={max(2, images // 50)}"))
        if prototypes > 12 * assigned:
            findings.append(warning(f"each assignment spreads {assigned} images over {prototypes} prototypes",
                                    "a queue or fewer prototypes make it well defined",
                                    f"Model.queue_length={prototypes}"))
        return findings + (self._queue_advice(run, queued) if queued else []) + self._release_advice(run)

    def _steps_before_queue(self, run: RunFacts, length: int) -> int:
        """Steps whose assignments see the batch alone; as many as the run has, or more, when the queue never joins."""
        if self.epoch_queue_starts >= run.epochs:
            return run.steps
        return self.epoch_queue_starts * run.iterations_per_epoch + length // run.global_batch

    def _single_image(self, run: RunFacts, joins: int) -> Finding:
        """Every prototype must get the same share of the images: of one image, an equal part."""
        cause = ("the global batch is one image, and an assignment that has to use all prototypes equally can only "
                 "divide it equally: ")
        if joins >= run.steps:
            return Finding("refusal", cause + "every target is uniform and nothing is learnt",
                           "take more images a step; Global.accum_steps divides them when memory is short",
                           ("DataLoader.Train.sampler.batch_size=64",))
        return warning(f"{cause}all targets are uniform in the {joins} steps before the queue joins",
                       "start it at once, or take more images a step",
                       *["Model.epoch_queue_starts=0"] * (self.epoch_queue_starts > 0),
                       "DataLoader.Train.sampler.batch_size=64")

    def _queue_advice(self, run: RunFacts, length: int) -> List[Finding]:
        """A queue that the run ends before it is used."""
        start, filling = self.epoch_queue_starts, length // run.global_batch
        filled = start * run.iterations_per_epoch + filling
        earlier = min(start, run.epochs // 10)
        helps = earlier < start and earlier * run.iterations_per_epoch + filling < run.steps
        remedies = [*[f"Model.epoch_queue_starts={earlier}"] * helps, "Model.queue_length=0"]
        if start >= run.epochs:
            return [warning(f"the queue (Model.queue_length {length}) is never used: it starts in epoch {start}, "
                            f"counted from 0 (Model.epoch_queue_starts), and the run has {run.epochs}",
                            "start it earlier or do without" if helps else "do without", *remedies)]
        if filled >= run.steps:
            return [warning(f"the queue (Model.queue_length {length}) never gets full and is not used before: that "
                            f"would take {filled} steps, {filling} of them from epoch {start} on, and the run has "
                            f"{run.steps}", "a shorter queue gets full sooner; or "
                            + ("start it earlier, or " if helps else "") + "do without",
                            *remedies)]
        if length != self.asked_queue_length:
            return [warning(f"Model.queue_length {self.asked_queue_length} is rounded down to {length}, a multiple of "
                            f"the global batch of {run.global_batch}")]
        return []

    def _release_advice(self, run: RunFacts) -> List[Finding]:
        """Prototypes released long after an epoch, or never; not when it was said in epochs and so may be meant."""
        frozen = self.frozen_steps
        if self.is_frozen_by_epochs or (frozen < run.steps and frozen <= 1.5 * run.iterations_per_epoch):
            return []
        if frozen < run.steps:
            return [warning(f"the prototypes stay frozen for {frozen} steps (Model.freeze_prototypes_niters), which "
                            f"are {frozen / run.iterations_per_epoch:.1f} epochs of this data and batch",
                            "one is usual", "Model.freeze_prototypes_epochs=1")]
        return [warning(f"the prototypes are never released: Model.freeze_prototypes_niters is {frozen} and the run "
                        f"has {run.steps} steps", f"count in epochs of your data; {run.epochs} keep them still on "
                        "purpose", f"Model.freeze_prototypes_epochs={max(1, run.epochs // 10)}")]

    def on_epoch_start(self, epoch):
        self.epoch = epoch
        self.usage = paddle.zeros_like(self.usage)

    def histograms(self):
        return {"prototype_usage": self.usage.numpy()}

    def undo_point(self):
        restore_buffers = super().undo_point()
        usage, queue = self.usage, self.queue
        queued = queue and (queue.entries, queue.filled)

        def restore():
            restore_buffers()
            self.usage = usage
            if queue and queued:
                queue.entries, queue.filled = queued

        return restore

    def shared_state(self):
        return {"epoch": self.epoch}

    def load_shared_state(self, state):
        self.epoch = state["epoch"]

    def rank_state(self):
        return {"usage": self.usage.numpy(), **({} if self.queue is None else {"queue": self.queue.state()})}

    def load_rank_states(self, states, rank, world_size):
        usage = [np.asarray(state["usage"]) for state in states if "usage" in state]
        if usage:  # an even share, where this rank has no predecessor
            own = usage[rank] if len(usage) == world_size else sum(usage) / world_size
            self.usage = paddle.to_tensor(own, dtype=self.usage.dtype)
        saved = [state["queue"] for state in states if "queue" in state]
        if self.queue is None or not saved:
            return "the checkpoint holds no queue; it starts empty" if self.queue is not None else None
        return self.queue.load(saved, rank, world_size)
