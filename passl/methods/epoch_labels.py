"""Labels for a whole epoch from the embeddings of the epoch before: what DeepCluster-v2 and SeLa-v2 have in common."""
from __future__ import annotations

import warnings
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import paddle
import paddle.nn.functional as F

from passl import distributed
from passl.errors import UserError
from passl.methods.base import (
    Method,
    RunFacts,
    Step,
    check_positive,
    check_prototypes,
    features_of_images,
    full_precision,
)
from passl.methods.memory_bank import MemoryBank, check_fillable, labels_of_checkpoint, sparse_clusters
from passl.methods.swav import check_crops
from passl.models.build import build_network
from passl.models.heads import Prototypes

GATHERED_BYTES = 64 * 2**20  # soft labels of all ranks that are on the device at a time
UNLABELLED = -100  # an image of which the bank has no embedding: the loss leaves it out


class HeadLabels(NamedTuple):
    """Labels of this rank's bank rows for one head: `hard` int64 [n], `counts` [K] over all ranks, `soft` [n, K].

    On the host: an accelerator has no room for soft labels of a whole data set.
    """

    hard: np.ndarray
    counts: np.ndarray
    soft: Optional[np.ndarray] = None


class EpochLabels(Method):
    """Cross-entropy of all crops with labels fixed for an epoch (SwAV paper, appendix D).

    Training fills a memory bank with the embeddings of the assignment crops; at the start of the next epoch `label`
    turns bank rows into labels, one set for each prototype head (head h uses assignment crop h mod A). Before the
    first epoch one pass without gradients, the network in training mode, fills the bank with other crops than the
    epoch's. Images not seen in the last epoch (the incomplete last batch is dropped) have no label and do not count in
    the loss.

    A subclass defines `label(head, embeddings, epoch)` -> HeadLabels.
    """

    prototype_heads = "several"
    published_rates = ("MomentumLARC", 0.3, 0.6)  # 4.8 at 4096

    def __init__(self, backbone: Dict[str, Any], temperature: float, crops_for_assign: Sequence[int],
                 nmb_crops: Optional[Sequence[int]], run: RunFacts, soft: bool = False):
        if not backbone.get("nmb_prototypes"):
            raise UserError(f"{type(self).__name__} needs prototypes: set Model.backbone.nmb_prototypes, one number "
                            "for each head ([3000, 3000, 3000] for ImageNet)")
        check_prototypes(backbone["nmb_prototypes"])
        check_crops(crops_for_assign, nmb_crops, run.crop_count)
        check_positive(temperature=(temperature, 0.1))
        self.model = build_network(backbone, "pretrain")
        self.network = self.model
        self.temperature = temperature
        self.crops_for_assign = list(crops_for_assign)
        self.dataset_size, self.seed = run.dataset_size, run.seed
        self.epoch = 0
        self.dtype = paddle.get_default_dtype()
        self.bank = MemoryBank(len(self.crops_for_assign), run.iterations_per_epoch * run.batch_size,
                               backbone["output_dim"], self.dtype)
        self.labels = paddle.full([len(self.heads()), run.dataset_size], UNLABELLED, "int64")
        sizes = self.model.head_sizes
        self.counts = [np.zeros(size, np.int64) for size in sizes]
        check_fillable(max(sizes), run.images_per_epoch)
        self.targets: Optional[List[np.ndarray]] = None  # soft labels, for each head [N, K]; in host memory
        if soft:
            size = 4 * run.dataset_size * sum(sizes) / 2 ** 30
            if size > 8:
                warnings.warn(f"soft labels of {run.dataset_size} images take {size:.0f} GiB of host memory in every "
                              f"process and {size:.0f} GiB of every checkpoint; Model.assignment: hard needs none of "
                              "it", stacklevel=2)
            self.targets = [np.zeros([run.dataset_size, size], self.dtype) for size in sizes]
        self._pending: List[Any] = []  # embeddings and indices of the current step; stored when the step has worked

    def heads(self) -> List[Prototypes]:
        return self.model.score_heads()

    def label(self, head: int, embeddings: paddle.Tensor, epoch: int) -> HeadLabels:
        """Labels of this rank's bank rows [n, D], joint over all ranks."""
        raise NotImplementedError

    def advice(self, run):
        return sparse_clusters(max(self.model.head_sizes), run.dataset_size)

    # ---------------------------------------------------------------------------------------------- once an epoch
    def due_pass(self, position):
        return 0 if self.bank.filled else 1

    @paddle.no_grad()
    def on_pass(self, position, batches):
        """One forward pass for each assignment crop of each batch, as the original: batch norm sees one crop a time."""
        for batch in batches():
            rows = [self.model(batch["crops"][crop])[0] for crop in self.crops_for_assign]
            self.bank.push(paddle.stack(rows), batch["index"].numpy())

    @paddle.no_grad()
    @full_precision
    def on_epoch_start(self, epoch):
        self.epoch = epoch
        self._label_all(epoch)
        self.bank.start_epoch()

    def _label_all(self, epoch: int) -> None:
        indices = distributed.all_gather_rows(paddle.to_tensor(self.bank.indices)).numpy()
        table = np.full(self.labels.shape, UNLABELLED, np.int64)
        for head in range(len(table)):
            found = self.label(head, self.bank.embeddings(head % len(self.crops_for_assign)), epoch)
            table[head, indices] = distributed.all_gather_rows(paddle.to_tensor(found.hard)).numpy()
            self.counts[head] = found.counts
            if self.targets is not None and found.soft is not None:
                self._spread_soft(found.soft, self.targets[head])
        self.labels = paddle.to_tensor(table)

    def _spread_soft(self, soft: np.ndarray, table: np.ndarray) -> None:
        """Copy the soft labels [n, K] of all ranks to the rows of their images in `table` [N, K], block by block."""
        table[:] = 0
        size = max(1, GATHERED_BYTES // (table[:1].nbytes * distributed.world_size()))
        longest = int(distributed.all_reduce(paddle.to_tensor([len(soft)]), "max").item())
        for start in range(0, longest, size):
            rows = slice(start, start + size)
            indices = distributed.all_gather_rows(paddle.to_tensor(self.bank.indices[rows])).numpy()
            table[indices] = distributed.all_gather_rows(paddle.to_tensor(soft[rows])).numpy()

    # ---------------------------------------------------------------------------------------------- one step
    def plan(self, batches):
        """Labels of every micro-batch, and labelled images of the whole step in proportion to the micro-batch.

        Gradients are averaged over ranks and, by their sizes, over micro-batches; images without a label are not
        spread evenly over them.
        """
        self._pending = []
        labels = [paddle.index_select(self.labels, batch["index"], axis=1) for batch in batches]
        valid = sum((label[0] >= 0).astype("float32").sum() for label in labels)
        total = distributed.all_reduce(valid).clip(min=1.0)
        images = sum(label.shape[1] for label in labels)
        return [(label, total.astype(self.dtype) / distributed.world_size() * (label.shape[1] / images))
                for label in labels]

    def training_step(self, batch, plan):
        labels, labelled = plan
        crops = batch["crops"]
        embedding, scores, features = self.network(crops, with_features=True)
        scores = scores if isinstance(scores, list) else [scores]
        rows = embedding.detach().reshape([len(crops), -1, embedding.shape[-1]])
        self._pending.append((paddle.stack([rows[crop] for crop in self.crops_for_assign]), batch["index"]))
        loss = self._loss(scores, labels, labelled, batch["index"], len(crops))
        used = [(count > 0).mean() for count in self.counts]
        return Step(loss, {"labelled": (labels[0] >= 0).astype("float32").mean(),
                           "clusters_used": paddle.to_tensor(float(np.mean(used)))},
                    features_of_images(features, crops))

    @full_precision
    def _loss(self, scores, labels, labelled, index, crops):
        """Sum over this micro-batch's labelled images divided by `labelled`, mean over heads and crops."""
        loss = sum(self._head_loss(head, score, labels[head], index, crops) for head, score in enumerate(scores))
        return loss / labelled / (len(scores) * crops)

    def _head_loss(self, head, scores, labels, index, crops):
        """Sum over this micro-batch's labelled rows; `scores` [V * B, K] are crop-major."""
        logits = scores / self.temperature
        if self.targets is None:
            return F.cross_entropy(logits, labels.tile([crops]), ignore_index=UNLABELLED, reduction="sum")
        targets = paddle.to_tensor(self.targets[head][index.numpy()], dtype=logits.dtype)
        return -(targets.tile([crops, 1]) * F.log_softmax(logits, axis=-1)).sum()

    def after_step(self, step):
        for embeddings, index in self._pending:
            self.bank.push(embeddings, index.numpy())
        self._pending = []

    def histograms(self):
        return {"prototype_usage": np.concatenate(self.counts)}

    # ---------------------------------------------------------------------------------------------- state
    def shared_state(self):
        state = {"epoch": self.epoch, "labels": self.labels.numpy(),
                 "counts": {str(head): count for head, count in enumerate(self.counts)}}
        if self.targets is not None:
            state["targets"] = {str(head): table for head, table in enumerate(self.targets)}
        return state

    def load_shared_state(self, state):
        labels = labels_of_checkpoint(state["labels"], self.labels)
        if self.targets is not None and "targets" not in state:
            raise UserError("the checkpoint holds hard labels only: resume with Model.assignment: hard")
        self.epoch, self.labels = state["epoch"], paddle.to_tensor(labels)
        self.counts = [np.array(state["counts"][str(head)]) for head in range(len(self.counts))]
        if self.targets is not None:
            self.targets = [np.array(state["targets"][str(head)]) for head in range(len(self.counts))]

    def rank_state(self):
        return {"bank": self.bank.state()}

    def load_rank_states(self, states, rank, world_size):
        return self.bank.load([state["bank"] for state in states], rank, world_size)
