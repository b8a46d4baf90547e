"""A trunk with projection head and prototypes that takes a list of crops: the network of SwAV and its family.

Sub-layer names (`encoder`, `projection_head`, `prototypes`) are those of PASSL's released checkpoints.
"""
from __future__ import annotations

from typing import List, Sequence, Union

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl.errors import UserError
from passl.models.heads import projection_head, prototypes


def group_by_resolution(crops: Sequence[paddle.Tensor]) -> List[List[paddle.Tensor]]:
    """Runs of consecutive crops of equal last dimension; only neighbours are merged, as in the reference."""
    groups: List[List[paddle.Tensor]] = []
    for crop in crops:
        if groups and groups[-1][-1].shape[-1] == crop.shape[-1]:
            groups[-1].append(crop)
        else:
            groups.append([crop])
    return groups


class MultiCropNetwork(nn.Layer):
    """encoder -> average pool -> projection head -> L2 normalisation -> prototype scores.

    Forward takes one tensor [B, 3, H, W] or a list of V of them and runs the trunk once per resolution (batch-norm
    statistics are per resolution) and the head once on everything. Rows are crop-major: all images of crop 0, then of
    crop 1, ... Returns
      (embedding [V*B, D], scores [V*B, K] or a list of them) with prototypes,
      the head's output [V*B, D] without prototypes,
      pooled features [V*B, F] with output_dim 0,
      the feature map [B, F, h, w] with eval_mode.
    with_features, for a network with prototypes: the pooled features [V*B, F] come third.
    Embedding, scores and everything after the head are computed in fp32 under mixed precision.
    """

    def __init__(self, encoder: nn.Layer, normalize: bool, hidden_mlp: int, output_dim: int,
                 nmb_prototypes: Union[int, List[int]], head_batch_norm: bool = True, eval_mode: bool = False):
        super().__init__()
        if nmb_prototypes and not output_dim:
            raise UserError("prototypes need an embedding: set output_dim (128 in every published run)")
        self.encoder = encoder
        self.normalize = normalize
        self.eval_mode = eval_mode
        self.num_features = encoder.num_features
        self.projection_head = projection_head(encoder.num_features, hidden_mlp, output_dim,
                                               head_batch_norm) if output_dim else None
        self.prototypes = prototypes(output_dim, nmb_prototypes) if nmb_prototypes else None

    def forward(self, crops, with_features: bool = False):
        crops = [crops] if isinstance(crops, paddle.Tensor) else list(crops)
        maps = [self.encoder(paddle.concat(group) if len(group) > 1 else group[0])
                for group in group_by_resolution(crops)]
        if self.eval_mode:
            return maps[0] if len(maps) == 1 else maps
        pooled = [feature_map.mean(axis=[2, 3]) for feature_map in maps]
        features = paddle.concat(pooled) if len(pooled) > 1 else pooled[0]
        return (*self.project(features), features) if with_features else self.project(features)

    def extract_feat(self, images: paddle.Tensor) -> paddle.Tensor:
        """Images [B, 3, H, W] -> pooled trunk features [B, F], whatever heads the network has."""
        return self.encoder(images).mean(axis=[2, 3])

    def project(self, features: paddle.Tensor):
        """Pooled features [N, F] -> what `forward` returns for them."""
        if self.projection_head is None:
            return features
        embedding = self.projection_head(features)
        with paddle.amp.auto_cast(enable=False):
            if embedding.dtype in (paddle.float16, paddle.bfloat16):
                embedding = embedding.astype(paddle.float32)
            if self.normalize:
                embedding = F.normalize(embedding, axis=1, epsilon=1e-12)
            return embedding if self.prototypes is None else (embedding, self.prototypes(embedding))

    def normalize_prototypes(self) -> None:
        self.prototypes.normalize()
