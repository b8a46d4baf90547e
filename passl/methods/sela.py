"""SeLa: self-labelling by simultaneous clustering and representation learning (Asano, Rupprecht, Vedaldi 2020).

The network predicts a label of every image by plain cross-entropy; now and then all labels are replaced by those that
optimal transport makes of its predictions when every cluster has to be equally large. Both steps lower the same
objective, -<Q, log P>.
"""
from __future__ import annotations

import math
from typing import Any, Dict, List, Literal

import numpy as np
import paddle
import paddle.nn.functional as F

from passl import distributed
from passl.clustering.balanced_labels import balanced_labels
from passl.errors import UserError
from passl.findings import warning
from passl.methods.base import Method, RunFacts, Step, check_positive, features_of_images, full_precision
from passl.methods.memory_bank import MemoryBank, check_fillable, labels_of_checkpoint, sparse_clusters
from passl.models.build import build_network
from passl.models.heads import cluster_counts
from passl.registry import METHODS


def label_steps(count: int, steps: int, power: float = 2.0) -> List[int]:
    """Steps of a run of `steps` before which labels are optimised, ascending, `count` of them.

    Optimisation j of `count` stands before step (steps - 1) (j / (count - 1))^power, rounded up: the first before the
    first step, the last before the last one. With power 2 they are dense at first, while the network changes fast, and
    ever further apart.

    The original counts images: (E + 1.01) N (j / (count - 1))^2, where its `--epochs E` runs E + 1 epochs. Here
    Global.epochs is what is run and a dropped last batch is no part of it, so the same curve is laid over the steps
    there are; on ImageNet with batch 256 and 401 epochs the two differ by less than 0.03 epochs. Several optimisations
    of a short run may share a step.
    """
    if count == 1:
        return [0]
    places = [(steps - 1) * (number / (count - 1)) ** power for number in range(count)]
    return [math.ceil(round(place, 6)) for place in places]  # 3.0000000004 is 3


@METHODS.register("SeLa", "sela_{trunk}_pretrain", context=("run",))
class SeLa(Method):
    """Hard labels of the whole data set under equipartition, optimised at a fixed number of moments of the run.

    backbone: the trunk (passl/models/build.py), and nmb_prototypes: the number of clusters, or a list with one for
      each linear classifier (10 x 3000 in the released ResNet-50). They stand on the pooled features: no projection
      head, no unit length.
    temperature: divides the logits, in loss and transport; 1 in the original.
    exponent: lambda of the transport; 25 on ImageNet, 10 on CIFAR. Larger follows the network more closely and takes
      more iterations.
    label_optimizations: how many times labels are computed in the run, each time by a pass over the training images
      without gradient; 100 in the released scripts. Fewer cost less; without any, labels would stay random.
    label_schedule_power: they lie at (j / (label_optimizations - 1)) ** power of the run: 2 has most of them early, as
      on ImageNet, 1 spreads them evenly, as on CIFAR.
    label_pass_mode: of the network in that pass. 'train' (the original): batch norm uses the statistics of the batch
      and goes on averaging them, so that labels come from the network that is trained; kept statistics lag behind it in
      the first epochs, where most passes are, and before the first step are none at all. 'eval' (the authors' later
      SeLaVi): labels do not depend on which images share a batch.
    sinkhorn_tolerance: stop when image potentials change by less than this; see sinkhorn_tolerance_mode.
    sinkhorn_tolerance_mode: the 'sum' over all images (0.1 in the original) or the 'mean' relative change of an image.
      The sum gets stricter with the number of images: 0.1 on ImageNet is a mean of 8e-8; 'mean' with 1e-3 is cheaper.
    sinkhorn_max_iterations: cap, with a warning when it is reached; the original has none and can run for ever.
    """

    prototype_heads = "several"
    has_embedding = False
    published_rates = ("Momentum", 0.05, 0.08)  # the original's README; what its scripts run with

    def __init__(self, backbone: Dict[str, Any], temperature: float = 1.0, exponent: float = 25.0,
                 label_optimizations: int = 100, label_schedule_power: float = 2.0,
                 label_pass_mode: Literal["train", "eval"] = "train", sinkhorn_tolerance: float = 0.1,
                 sinkhorn_tolerance_mode: Literal["mean", "sum"] = "sum", sinkhorn_max_iterations: int = 2000,
                 run: RunFacts = RunFacts()):
        clusters = cluster_counts(backbone)
        if label_optimizations < 1:
            raise UserError(f"Model.label_optimizations is {label_optimizations}: without any, the labels stay random "
                            "and nothing is learnt; 100 is usual, at least 1")
        check_positive(temperature=(temperature, 1.0), exponent=(exponent, 25.0),
                       label_schedule_power=(label_schedule_power, 2.0), sinkhorn_tolerance=(sinkhorn_tolerance, 0.1),
                       sinkhorn_max_iterations=(sinkhorn_max_iterations, 2000))
        check_fillable(max(clusters), run.images_per_epoch)
        self.model = self.network = self.build_network(backbone)
        self.temperature = temperature
        self.label_pass_mode = label_pass_mode
        self.transport: Dict[str, Any] = dict(
            temperature=temperature, exponent=exponent, tolerance=sinkhorn_tolerance,
            tolerance_mode=sinkhorn_tolerance_mode, max_iterations=sinkhorn_max_iterations)
        self.label_steps = np.array(label_steps(label_optimizations, run.steps, label_schedule_power))
        self.optimizations_done = 0
        self.rows = run.iterations_per_epoch * run.batch_size  # of a pass, on this rank
        self.dtype = paddle.get_default_dtype()
        self._set_labels(initial_labels(clusters, run.dataset_size, run.seed))
        self.labels_changed = 0.0  # share of labels that the last optimisation replaced

    @classmethod
    def build_network(cls, backbone):
        return build_network(backbone, "cluster heads")

    def _set_labels(self, table: np.ndarray) -> None:
        self.labels = paddle.to_tensor(table)  # int64 [T, N]
        self.counts = [np.bincount(row, minlength=count) for row, count in zip(table, self.model.head_sizes)]
        self.clusters_used = float(np.mean([(count > 0).mean() for count in self.counts]))

    def advice(self, run):
        findings = sparse_clusters(max(self.model.head_sizes), run.dataset_size)
        moments = len(set(self.label_steps.tolist()))
        if moments < len(self.label_steps):
            findings.append(warning(f"Model.label_optimizations {len(self.label_steps)} fall on {moments} steps of "
                                    f"this run: labels are computed {moments} times"))
        return findings

    # ---------------------------------------------------------------------------------------------- labels
    def _scheduled(self, position: int) -> int:
        """How many optimisations lie at or before this place in the schedule."""
        return int(np.searchsorted(self.label_steps, position, side="right"))

    def due_pass(self, position):
        # Counted, not looked up by step: an optimisation is made once, also when a run goes on with another batch size
        # and its step does not occur any more.
        return position + 2 if self._scheduled(position) > self.optimizations_done else 0

    @paddle.no_grad()
    def on_pass(self, position, batches):
        """Replace the labels of all images that `batches()` shows, by their first crop; the others keep theirs."""
        if self.label_pass_mode == "eval":
            self.model.eval()
        bank = MemoryBank(1, self.rows, self.model.num_features, self.dtype)
        for batch in batches():
            bank.push(self.model.extract_feat(batch["crops"][0]).unsqueeze(0), batch["index"].numpy())
        self.train()
        self._optimize_labels(bank.embeddings(0), bank.indices)
        self.optimizations_done = self._scheduled(position)

    @full_precision
    def _optimize_labels(self, features: paddle.Tensor, indices: np.ndarray) -> None:
        """Labels of every head from this rank's features [n, F] of images `indices` [n], joint over all ranks."""
        shown = distributed.all_gather_rows(paddle.to_tensor(indices)).numpy()
        # Ranks that share images unevenly show some twice; each counts once. They all have the same number of rows.
        kept = np.sort(np.unique(shown, return_index=True)[1])
        if len(kept) < len(shown):
            own = kept - distributed.rank() * len(indices)
            own = own[(own >= 0) & (own < len(indices))]
            features = paddle.index_select(features, paddle.to_tensor(own))
        table = self.labels.numpy().copy()
        for head, layer in enumerate(self.model.score_heads()):
            found = balanced_labels(features, layer.weight, layer.bias, **self.transport)
            table[head, shown[kept]] = distributed.all_gather_rows(found.labels).numpy()
        self.labels_changed = float((table != self.labels.numpy())[:, shown[kept]].mean())
        self._set_labels(table)

    # ---------------------------------------------------------------------------------------------- one step
    def training_step(self, batch, plan):
        crops = batch["crops"]
        features, logits = self.network(crops)
        loss = self._loss(logits, paddle.index_select(self.labels, batch["index"], axis=1), len(crops))
        return Step(loss, {"clusters_used": paddle.to_tensor(self.clusters_used),
                           "labels_changed": paddle.to_tensor(self.labels_changed)},
                    features_of_images(features, crops))

    @full_precision
    def _loss(self, logits: List[paddle.Tensor], labels: paddle.Tensor, crops: int) -> paddle.Tensor:
        """Cross-entropy of logits [V * B, K] with labels [T, B], mean over heads, crops and images."""
        losses = [F.cross_entropy(rows / self.temperature, labels[head].tile([crops]))
                  for head, rows in enumerate(logits)]
        return sum(losses) / len(losses)

    def histograms(self):
        return {"prototype_usage": np.concatenate(self.counts)}

    # ---------------------------------------------------------------------------------------------- state
    def shared_state(self):
        return {"labels": self.labels.numpy(), "optimizations_done": self.optimizations_done,
                "labels_changed": self.labels_changed}

    def load_shared_state(self, state):
        self._set_labels(labels_of_checkpoint(state["labels"], self.labels))
        self.optimizations_done = int(state["optimizations_done"])
        self.labels_changed = float(state["labels_changed"])


def initial_labels(clusters: List[int], images: int, seed: int) -> np.ndarray:
    """Labels int64 [T, images] before the first optimisation: i mod K in random order, so that clusters are equal."""
    return np.stack([np.random.default_rng([seed, head]).permutation(np.arange(images) % count)
                     for head, count in enumerate(clusters)])
