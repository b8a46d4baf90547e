"""DeepCluster-v2: k-means labels from the last epoch's embeddings (Caron et al. 2020, appendix D)."""
from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

import paddle

from passl.clustering.kmeans import kmeans
from passl.errors import UserError
from passl.methods.base import RunFacts
from passl.methods.epoch_labels import EpochLabels, HeadLabels
from passl.registry import METHODS

LEGACY = {"freeze_prototypes_niters": "prototypes are the centroids and never trained by gradient"}


@METHODS.register("DeepClusterV2", "deepclusterv2_{trunk}_pretrain", legacy=LEGACY, context=("run",))
class DeepClusterV2(EpochLabels):
    """Spherical k-means on the memory bank at every epoch; its centroids become the prototypes.

    Prototypes get no gradient. Several heads cluster independently (they start from different images), which steadies
    the labels.

    backbone: as SwAV's; nmb_prototypes is a list with one number of clusters for each head, 3 x 3000 on ImageNet.
    temperature: 0.1 in every published run.
    crops_for_assign: crops whose embeddings are kept and clustered, normally the large ones.
    nmb_crops: PASSL's repetition of the data section's num_crops; checked against it when given.
    kmeans_iterations: updates of the centroids, 10 in the original.
    """

    def __init__(self, backbone: Dict[str, Any], temperature: float = 0.1, crops_for_assign: Sequence[int] = (0, 1),
                 nmb_crops: Optional[List[int]] = None, kmeans_iterations: int = 10, run: RunFacts = RunFacts()):
        super().__init__(backbone, temperature, crops_for_assign, nmb_crops, run)
        if kmeans_iterations < 0:
            raise UserError(f"Model.kmeans_iterations is {kmeans_iterations} and must not be below 0: 10 is usual")
        self.kmeans_iterations = kmeans_iterations
        for prototypes in self.heads():
            prototypes.weight.stop_gradient = True

    def initial_centroids(self, head: int, embeddings: paddle.Tensor, epoch: int) -> paddle.Tensor:
        """[K, D] rows k-means starts from: bank rows of K images drawn by (seed, epoch, head)."""
        crop = head % len(self.crops_for_assign)
        return self.bank.draw(crop, len(self.counts[head]), self.dataset_size, [self.seed, epoch, head])

    def label(self, head, embeddings, epoch):
        found = kmeans(embeddings, initial_centroids=self.initial_centroids(head, embeddings, epoch),
                       iterations=self.kmeans_iterations)
        weight = self.heads()[head].weight
        weight.set_value(found.centroids.astype(weight.dtype).t())
        return HeadLabels(found.labels.numpy(), found.counts.numpy())
