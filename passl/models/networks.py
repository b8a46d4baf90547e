"""The networks: a trunk under the heads of a pretraining method, of a linear probe or of fine-tuning.

Sub-layer names are those of PASSL's released checkpoints: `encoder` is the trunk, and every network of a phase keeps
trunk and projection head under `res_model`.
"""
from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, Iterable, List

import paddle
import paddle.nn.functional as F
from paddle import nn

from passl.errors import UserError
from passl.models.base import Network, pool
from passl.models.heads import ClusterHead, HeadOptions, ProbeHead, cluster_counts, projection_head, prototypes


def group_by_resolution(crops: Iterable[paddle.Tensor]) -> List[List[paddle.Tensor]]:
    """Runs of consecutive crops of equal last dimension; only neighbours are merged, as in the reference."""
    return [list(group) for _, group in itertools.groupby(crops, key=lambda crop: crop.shape[-1])]


class MultiCropNetwork(Network):
    """encoder -> average pool -> projection head -> L2 normalisation -> prototype scores.

    Forward takes one tensor [B, 3, H, W] or a list of V of them and runs the trunk once per resolution (batch-norm
    statistics are per resolution) and the head once on everything. Rows are crop-major: all images of crop 0, then of
    crop 1, ... Returns
      (embedding [V*B, D], scores [V*B, K] or a list of them) with prototypes,
      the head's output [V*B, D] without prototypes,
      pooled features [V*B, F] with output_dim 0,
      what the trunk gives, a map [B, F, h, w] or a vector, with eval_mode.
    with_features, for a network with prototypes: the pooled features [V*B, F] come third.
    Embedding, scores and everything after the head are computed in fp32 under mixed precision.
    """

    def __init__(self, trunk: nn.Layer, options: HeadOptions):
        super().__init__()
        if options.nmb_prototypes and not options.output_dim:
            raise UserError("prototypes need an embedding: set output_dim (128 in every published run)")
        self.encoder = trunk
        self.normalize = options.normalize
        self.eval_mode = options.eval_mode
        self.projection_head: Any = projection_head(trunk.num_features, options.hidden_mlp, options.output_dim,
                                                    options.head_batch_norm) if options.output_dim else None
        self.prototypes: Any = prototypes(options.output_dim, options.nmb_prototypes,
                                          options.prototype_bias) if options.nmb_prototypes else None

    @property
    def trunk(self):
        return self.encoder

    def heads(self):
        heads = {"projection_head": self.projection_head, "prototypes": self.prototypes}
        return {name: head for name, head in heads.items() if head is not None}

    @property
    def output_heads(self):
        names = tuple(self.heads())
        outputs = ("features", "embedding", "scores")[:len(names) + 1]
        return {output: names[:count] for count, output in enumerate(outputs)}

    def score_heads(self):
        return self.prototypes.heads() if self.prototypes is not None else []

    def forward(self, crops, with_features: bool = False):
        crops = [crops] if isinstance(crops, paddle.Tensor) else list(crops)
        maps = [self.encoder(paddle.concat(group) if len(group) > 1 else group[0])
                for group in group_by_resolution(crops)]
        if self.eval_mode:
            return maps[0] if len(maps) == 1 else maps
        pooled = [pool(feature_map) for feature_map in maps]
        features = paddle.concat(pooled) if len(pooled) > 1 else pooled[0]
        return (*self.project(features), features) if with_features else self.project(features)

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

    def head_outputs(self, trunk_output, features, names):
        found = {}
        if self.projection_head is not None and ("embedding" in names or "scores" in names):
            found["embedding"] = self.embed(features)
        if self.prototypes is not None and "scores" in names:
            found["scores"] = self.scores_of(found["embedding"])
        return found

    def normalize_prototypes(self):
        if self.prototypes is not None:
            self.prototypes.normalize()


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

    def forward(self, crops, with_features: bool = False):
        return self.res_model(crops, with_features)


class PretrainNetwork(PhaseNetwork):
    """What SwAV and its family train; `forward` as MultiCropNetwork's with prototypes."""

    def __init__(self, trunk: nn.Layer, options: HeadOptions):
        super().__init__(trunk, options)
        if not self.head_sizes:
            raise UserError("pretraining by clustering needs prototypes: set Model.backbone.output_dim (128) and "
                            "Model.backbone.nmb_prototypes")

    @property
    def output_heads(self):
        return self.res_model.output_heads

    def score_heads(self):
        return self.res_model.score_heads()

    def head_outputs(self, trunk_output, features, names):
        return self.res_model.head_outputs(trunk_output, features, names)

    def normalize_prototypes(self):
        self.res_model.normalize_prototypes()

    def scores(self, embeddings: paddle.Tensor):
        """Prototype scores of stored embeddings [..., D] -> [..., K] (a list for several heads)."""
        return self.res_model.prototypes(embeddings)

    def hold_prototypes(self) -> None:
        """Keep the prototypes out of the coming optimizer step: no gradient, no momentum, no weight decay.

        Dropping the gradient alone is not enough: once reduced over ranks it comes back as zeros, and weight decay
        would move the prototypes.
        """
        for parameter in self.res_model.prototypes.parameters():
            parameter.clear_gradient(set_to_zero=False)
            parameter.stop_gradient = True

    def release_prototypes(self) -> None:
        """Undo `hold_prototypes`, before a forward pass whose gradients may reach the prototypes."""
        for parameter in self.res_model.prototypes.parameters():
            parameter.stop_gradient = False


class ClusterHeadNetwork(PhaseNetwork):
    """SeLa's: T classifiers on the pooled features, each with its own number of clusters (`nmb_prototypes`).

    Parameter names are those `passl-convert` gives SeLa's released networks: `res_model.encoder.*` and
    `res_model.top_layer{h}.{weight,bias}`.
    """

    head_output = "scores"

    def __init__(self, trunk: nn.Layer, options: HeadOptions):
        super().__init__(trunk, replace(options, nmb_prototypes=0))
        self.counts = cluster_counts(vars(options))
        for head, count in enumerate(self.counts):
            self.res_model.add_sublayer(f"top_layer{head}", ClusterHead(self.num_features, count))

    def heads(self):
        return {name: getattr(self.res_model, name) for name in map("top_layer{}".format, range(len(self.counts)))}

    def score_heads(self):
        return list(self.heads().values())

    def forward(self, crops):  # type: ignore[override]  # features always come along
        """V crops [B, 3, H, W] -> (features [V * B, F], logits [V * B, K] of every head), rows crop-major."""
        features = self.res_model(crops)
        return features, [head(features) for head in self.score_heads()]

    def head_outputs(self, trunk_output, features, names):
        return {"scores": self.scores_of(features)} if "scores" in names else {}


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

    def forward(self, images):  # type: ignore[override]  # a classifier takes no crops
        with paddle.no_grad():
            output = self.trunk(images)
            features = pool(output)
        return self.head_outputs(output, features, ("logits",))["logits"]

    def head_outputs(self, trunk_output, features, names):
        return {"logits": self.linear(features if self.linear.global_pooling else trunk_output)}


class FineTunedNetwork(PhaseNetwork):
    """A trunk (`res_model.encoder.*`) and one Linear (`res_model.projection_head.*`), trained together.

    Forward: images [B, 3, H, W] -> logits [B, C].
    """

    def __init__(self, trunk: nn.Layer, options: HeadOptions, class_num: int):
        super().__init__(trunk, replace(options, output_dim=class_num))

    def head_outputs(self, trunk_output, features, names):
        return {"logits": self.res_model.embed(features)}
