"""SeLa-v2: balanced labels of the whole data set from the last epoch's embeddings (Caron et al. 2020, appendix D).

No training code was ever published; the authors' advice is DeepCluster-v2 with Sinkhorn-Knopp in place of k-means and
prototypes that are learned. What is left open (epsilon, stopping rule, hard or soft) is in the configuration.
"""
from __future__ import annotations

from typing import Any, Dict, List, Literal, Optional, Sequence

from passl.arrays import to_numpy
from passl.clustering.balanced_labels import balanced_labels
from passl.methods.base import RunFacts, check_positive, freeze_length
from passl.methods.epoch_labels import EpochLabels, HeadLabels
from passl.registry import METHODS


@METHODS.register("SeLaV2", "selav2_{trunk}_pretrain", context=("run",))
class SeLaV2(EpochLabels):
    """Optimal-transport labels under equipartition at every epoch; prototypes are trained by gradient.

    backbone: as SwAV's; nmb_prototypes is a list with one number of clusters for each head, 3 x 3000 in the paper.
    temperature: 0.1, as all methods of the paper.
    epsilon: entropy weight of the transport; SwAV's 0.05 (SeLa's lambda is temperature / epsilon). Smaller values
      follow the network more closely and take more iterations.
    sinkhorn_tolerance: stop when image potentials change by less than this; see sinkhorn_tolerance_mode.
    sinkhorn_tolerance_mode: 'mean' relative change of an image, or the 'sum' over all images as in SeLa (0.1 there).
      The sum gets stricter with the number of images: 0.1 on ImageNet is a mean of 8e-8, long after labels settle.
    sinkhorn_max_iterations: cap, with a warning when it is reached; the original has none and can run for ever.
    assignment: 'hard' (SeLa's argmax; the paper finds discrete labels fine when they come from the whole data set) or
      'soft' (images x prototypes x heads numbers of host memory, and as many in every checkpoint).
    crops_for_assign: crops whose embeddings are kept and labelled, normally the large ones.
    nmb_crops: PASSL's repetition of the data section's num_crops; checked against it when given.
    freeze_prototypes_niters: steps during which prototypes get no gradient; one epoch is usual.
    freeze_prototypes_epochs: the same in epochs; replaces freeze_prototypes_niters when set.
    """

    def __init__(self, backbone: Dict[str, Any], temperature: float = 0.1, epsilon: float = 0.05,
                 sinkhorn_tolerance: float = 1e-3, sinkhorn_tolerance_mode: Literal["mean", "sum"] = "mean",
                 sinkhorn_max_iterations: int = 2000, assignment: Literal["soft", "hard"] = "hard",
                 crops_for_assign: Sequence[int] = (0, 1), nmb_crops: Optional[List[int]] = None,
                 freeze_prototypes_niters: int = 313, freeze_prototypes_epochs: Optional[float] = None,
                 run: RunFacts = RunFacts()):
        check_positive(epsilon=(epsilon, 0.05), sinkhorn_tolerance=(sinkhorn_tolerance, 1e-3),
                       sinkhorn_max_iterations=(sinkhorn_max_iterations, 2000))
        super().__init__(backbone, temperature, crops_for_assign, nmb_crops, run, soft=assignment == "soft")
        self.transport: Dict[str, Any] = dict(
            temperature=temperature, exponent=temperature / epsilon, tolerance=sinkhorn_tolerance,
            tolerance_mode=sinkhorn_tolerance_mode, max_iterations=sinkhorn_max_iterations, soft=assignment == "soft")
        self.frozen_steps = freeze_length(freeze_prototypes_niters, freeze_prototypes_epochs, run)

    def on_epoch_start(self, epoch):
        self.model.normalize_prototypes()
        super().on_epoch_start(epoch)

    def label(self, head, embeddings, epoch):
        # Soft labels come back on the host only for rows that are there; the work is done on the device either way.
        rows = embeddings if self.targets is None else embeddings.numpy()
        found = balanced_labels(rows, self.heads()[head].weight, **self.transport)
        return HeadLabels(to_numpy(found.labels), to_numpy(found.counts), found.assignments)

    def training_step(self, batch, plan):
        self.model.release_prototypes()
        self.model.normalize_prototypes()
        return super().training_step(batch, plan)
