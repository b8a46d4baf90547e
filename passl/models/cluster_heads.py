"""A trunk with linear classifiers on its features: SeLa's network (Asano et al. 2020)."""
from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, Tuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl.errors import UserError
from passl.registry import BACKBONES

HEAD_KEYS = ("hidden_mlp", "output_dim", "normalize", "eval_mode")  # of Model.backbone; nothing here would use them


def cluster_counts(backbone: Mapping[str, Any]) -> List[int]:
    """Clusters of every classifier, from Model.backbone; ValueError for what cannot be built or has no effect."""
    given = backbone.get("nmb_prototypes")
    clusters = [given] if isinstance(given, int) else list(given or [])
    if not clusters or min(clusters) < 2:
        raise UserError(f"Model.backbone.nmb_prototypes is {given}: SeLa needs at least 2 clusters for each "
                        "classifier, one number for each (ten of 3000 on ImageNet)")
    unused = [f"Model.backbone.{key}" for key in HEAD_KEYS if backbone.get(key)]
    if unused:
        raise UserError(f"SeLa's classifiers stand on the trunk's features, so {' and '.join(unused)} would have no "
                        "effect: leave out what is of a projection head")
    return clusters


class ClusterHead(nn.Linear):
    """Features [N, F] -> logits [N, K], with bias; in fp32 whatever the precision.

    Initialised as PyTorch's Linear, which the ResNets of the original keep.
    """

    def __init__(self, features: int, clusters: int):
        bound = 1.0 / math.sqrt(features)
        uniform = [paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound)) for _ in range(2)]
        super().__init__(features, clusters, weight_attr=uniform[0], bias_attr=uniform[1])

    def forward(self, features):
        with paddle.amp.auto_cast(enable=False):
            return F.linear(features.astype(self.weight.dtype), self.weight, self.bias)


class ClusterHeadModel(nn.Layer):
    """Trunk, average pooling and T classifiers, each with its own number of clusters.

    backbone: Model.backbone; nmb_prototypes gives the clusters of each classifier.
    Parameter names are those `passl-convert` gives SeLa's released networks: `res_model.encoder.*` and
    `res_model.top_layer{h}.{weight,bias}`.
    """

    def __init__(self, backbone: Dict[str, Any]):
        super().__init__()
        clusters = cluster_counts(backbone)
        self.res_model = BACKBONES.build({**backbone, "nmb_prototypes": 0}, key="type")
        self.num_features = self.res_model.num_features
        self.head_names = [f"top_layer{head}" for head in range(len(clusters))]
        for name, count in zip(self.head_names, clusters):
            self.res_model.add_sublayer(name, ClusterHead(self.num_features, count))

    def heads(self) -> List[ClusterHead]:
        return [getattr(self.res_model, name) for name in self.head_names]

    def forward(self, crops) -> Tuple[paddle.Tensor, List[paddle.Tensor]]:
        """V crops [B, 3, H, W] -> (features [V * B, F], logits [V * B, K] of every head), rows crop-major."""
        features = self.res_model(crops)
        return features, [head(features) for head in self.heads()]

    def extract_feat(self, images: paddle.Tensor) -> paddle.Tensor:
        """Images [B, 3, H, W] -> pooled trunk features [B, F]."""
        return self.res_model.extract_feat(images)
