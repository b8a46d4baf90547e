"""The networks: a trunk under the heads of a pretraining method, of a linear probe or of fine-tuning.

Sub-layer names are those of PASSL's released checkpoints: `encoder` is the trunk, and every network of a phase keeps
trunk and projection head under `res_model`.
"""
from __future__ import annotations

from dataclasses import replace
from typing import List, Sequence, Tuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl.errors import UserError
from passl.models.base import Network, pool
from passl.models.heads import (
    ClusterHead,
    HeadOptions,
    ProbeHead,
    Prototypes,
    cluster_counts,
    projection_head,
    prototypes,
)


def group_by_resolution(crops: Sequence[paddle.Tensor]) -> List[List[paddle.Tensor]]:
    """Runs of consecutive crops of equal last dimension; only neighbours are merged, as in the reference."""
    groups: List[List[paddle.Tensor]] = []
    for crop in crops:
        if groups and groups[-1][-1].shape[-1] == crop.shape[-1]:
            groups[-1].append(crop)
        else:
            groups.append([crop])
    return groups


class MultiCropNetwork(Network):
    """encoder -> average pool -> projection head -> L2 normalisation -> prototype scores.

    Forward takes one tensor [B, 3, H, W] or a list of V of them and runs the trunk once per resolution (batch-norm
    statistics are per resolution) and the head once on everything. Rows are crop-major: all images of crop 0, then of
    crop 1, ... Returns
      (embedding [V*B, D], scores [V*B, K] or a list of them) with prototypes,
      the head's output [V*B, D] without prototypes,
      pooled features [V*B, F] with output_dim 0,
      what the trunk gives, a map [B, F, h, w] or a vector, with eval_mode.
    Embedding, scores and everything after the head are computed in fp32 under mixed precision.
    """

    def __init__(self, trunk: nn.Layer, options: HeadOptions):
        super().__init__()
        if options.nmb_prototypes and not options.output_dim:
            raise UserError("prototypes need an embedding: set output_dim (128 in every published run)")
        self.encoder = trunk
        self.normalize = options.normalize
        self.eval_mode = options.eval_mode
        self.projection_head = projection_head(trunk.num_features, options.hidden_mlp, options.output_dim,
                                               options.head_batch_norm) if options.output_dim else None
        self.prototypes = prototypes(options.output_dim, options.nmb_prototypes) if options.nmb_prototypes else None

    @property
    def trunk(self):
        return self.encoder

    def heads(self):
        heads = {"projection_head": self.projection_head, "prototypes": self.prototypes}
        return {name: head for name, head in heads.items() if head is not None}

    @property
    def output_heads(self):
        names = tuple(self.heads())
        return dict(zip(("features", "embedding", "scores"), (names[:count] for count in range(len(names) + 1))))

    @property
    def head_sizes(self):
        return [head.weight.shape[1] for head in self.prototypes.heads()] if self.prototypes is not None else []

    def forward(self, crops):
        crops = [crops] if isinstance(crops, paddle.Tensor) else list(crops)
        maps = [self.encoder(paddle.concat(group) if len(group) > 1 else group[0])
                for group in group_by_resolution(crops)]
        if self.eval_mode:
            return maps[0] if len(maps) == 1 else maps
        pooled = [pool(feature_map) for feature_map in maps]
        return self.project(paddle.concat(pooled) if len(pooled) > 1 else pooled[0])

    def project(self, features: paddle.Tensor):
        """Pooled features [N, F] -> what `forward` returns for them."""
        if self.projection_head is None:
            return features
        embedding = self.embed(features)
        return embedding if self.prototypes is None else (embedding, self.prototypes(embedding))

    def embed(self, features: paddle.Tensor) -> paddle.Tensor:
        """Pooled features [N, F] -> output of the projection head [N, D], of unit length with `normalize`."""
        embedding = self.projection_head(features)
        with paddle.amp.auto_cast(enable=False):
            if embedding.dtype in (paddle.float16, paddle.bfloat16):
                embedding = embedding.astype(paddle.float32)
            return F.normalize(embedding, axis=1, epsilon=1e-12) if self.normalize else embedding

    def outputs_of(self, trunk_output, names):
        found = {"features": pool(trunk_output)}
        if self.projection_head is not None and ("embedding" in names or "scores" in names):
            found["embedding"] = self.embed(found["features"])
        if self.prototypes is not None and "scores" in names:
            found["scores"] = _side_by_side([head(found["embedding"]) for head in self.prototypes.heads()])
        return found

    def normalize_prototypes(self):
        if self.prototypes is not None:
            self.prototypes.normalize()


def _side_by_side(scores: List[paddle.Tensor]) -> paddle.Tensor:
    return paddle.concat(scores, axis=1) if len(scores) > 1 else scores[0]


class PhaseNetwork(Network):
    """A network whose trunk and projection head lie under `res_model`."""

    def __init__(self, trunk: nn.Layer, options: HeadOptions):
        super().__init__()
        self.res_model = MultiCropNetwork(trunk, options)

    @property
    def trunk(self):
        return self.res_model.encoder

    def heads(self):
        return self.res_model.heads()

    @property
    def output_heads(self):
        return self.res_model.output_heads

    @property
    def head_sizes(self):
        return self.res_model.head_sizes

    def forward(self, crops):
        return self.res_model(crops)

    def outputs_of(self, trunk_output, names):
        return self.res_model.outputs_of(trunk_output, names)

    def normalize_prototypes(self):
        self.res_model.normalize_prototypes()


class PretrainNetwork(PhaseNetwork):
    """What SwAV and its family train; `forward` as MultiCropNetwork's with prototypes."""

    def __init__(self, trunk: nn.Layer, options: HeadOptions):
        super().__init__(trunk, options)
        if not self.head_sizes:
            raise UserError("pretraining by clustering needs prototypes: set Model.backbone.output_dim (128) and "
                            "Model.backbone.nmb_prototypes")

    def prototype_heads(self) -> List[Prototypes]:
        return self.res_model.prototypes.heads()

    def scores(self, embeddings: paddle.Tensor):
        """Prototype scores of stored embeddings [..., D] -> [..., K] (a list for several heads)."""
        return self.res_model.prototypes(embeddings)

    def hold_prototypes(self) -> None:
        """Keep the prototypes out of the coming optimizer step: no gradient, no momentum, no weight decay.

        Dropping the gradient alone is not enough: once reduced over ranks it comes back as zeros, and weight decay
        would move the prototypes.
        """
        for parameter in self.prototype_parameters():
            parameter.clear_gradient(set_to_zero=False)
            parameter.stop_gradient = True

    def release_prototypes(self) -> None:
        """Undo `hold_prototypes`, before a forward pass whose gradients may reach the prototypes."""
        for parameter in self.prototype_parameters():
            parameter.stop_gradient = False

    def prototype_parameters(self) -> List[paddle.Tensor]:
        return self.res_model.prototypes.parameters()


class ClusterHeadNetwork(PhaseNetwork):
    """SeLa's: T classifiers on the pooled features, each with its own number of clusters (`nmb_prototypes`).

    Parameter names are those `passl-convert` gives SeLa's released networks: `res_model.encoder.*` and
    `res_model.top_layer{h}.{weight,bias}`.
    """

    def __init__(self, trunk: nn.Layer, options: HeadOptions):
        super().__init__(trunk, replace(options, nmb_prototypes=0))
        counts = cluster_counts(vars(options))
        self.head_names = [f"top_layer{head}" for head in range(len(counts))]
        for name, count in zip(self.head_names, counts):
            self.res_model.add_sublayer(name, ClusterHead(self.num_features, count))

    def heads(self):
        return {name: getattr(self.res_model, name) for name in self.head_names}

    @property
    def output_heads(self):
        return {"features": (), "scores": tuple(self.head_names)}

    @property
    def head_sizes(self):
        return [head.weight.shape[1] for head in self.heads().values()]

    def forward(self, crops) -> Tuple[paddle.Tensor, List[paddle.Tensor]]:
        """V crops [B, 3, H, W] -> (features [V * B, F], logits [V * B, K] of every head), rows crop-major."""
        features = self.res_model(crops)
        return features, [head(features) for head in self.heads().values()]

    def outputs_of(self, trunk_output, names):
        features = pool(trunk_output)
        return {"features": features, "scores": _side_by_side([head(features) for head in self.heads().values()])}


class LinearProbeNetwork(PhaseNetwork):
    """A frozen trunk (`res_model.encoder.*`) under a linear classifier (`linear.linear.*`, `linear.bn.*`).

    The trunk gets no gradient and stays in evaluation mode whatever `train` is called with, so that neither its
    weights nor its running statistics ever change. Forward: images [B, 3, H, W] -> logits [B, C].
    """

    def __init__(self, trunk: nn.Layer, options: HeadOptions, class_num: int, global_pooling: bool = True,
                 use_bn: bool = False):
        super().__init__(trunk, options)
        self.linear = ProbeHead(self.num_features, class_num, global_pooling, use_bn)
        for parameter in self.res_model.parameters():
            parameter.stop_gradient = True
        self.res_model.eval()

    def train(self):
        super().train()
        self.res_model.eval()

    def heads(self):
        return {"linear": self.linear}

    @property
    def output_heads(self):
        return {"features": (), "logits": ("linear",)}

    def forward(self, images):
        with paddle.no_grad():
            features = self.trunk(images)
        return self._logits(features)

    def _logits(self, trunk_output):
        return self.linear(pool(trunk_output) if self.linear.global_pooling else trunk_output)

    def outputs_of(self, trunk_output, names):
        return {"features": pool(trunk_output), "logits": self._logits(trunk_output)}


class FineTunedNetwork(PhaseNetwork):
    """A trunk (`res_model.encoder.*`) and one Linear (`res_model.projection_head.*`), trained together.

    Forward: images [B, 3, H, W] -> logits [B, C].
    """

    def __init__(self, trunk: nn.Layer, options: HeadOptions, class_num: int):
        super().__init__(trunk, replace(options, output_dim=class_num))

    @property
    def output_heads(self):
        return {"features": (), "logits": ("projection_head",)}

    def outputs_of(self, trunk_output, names):
        features = pool(trunk_output)
        return {"features": features, "logits": self.res_model.embed(features)}
