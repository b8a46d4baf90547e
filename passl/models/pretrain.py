"""The trained network of a clustering method, under the parameter names of PASSL's SwAV checkpoints (`res_model.*`)."""
from __future__ import annotations

from typing import Any, Dict, List

import paddle
from paddle import nn

from passl.errors import UserError
from passl.registry import BACKBONES


class PretrainModel(nn.Layer):
    """A backbone with projection head and prototypes, built from `Model.backbone`."""

    def __init__(self, backbone: Dict[str, Any]):
        super().__init__()
        self.res_model = BACKBONES.build(backbone, key="type")
        if self.res_model.prototypes is None:
            raise UserError("pretraining by clustering needs prototypes: set Model.backbone.output_dim (128) and "
                            "Model.backbone.nmb_prototypes")
        self.num_features = self.res_model.num_features

    def forward(self, crops, with_features: bool = False):
        return self.res_model(crops, with_features)

    def extract_feat(self, images: paddle.Tensor) -> paddle.Tensor:
        """Images [B, 3, H, W] -> pooled trunk features [B, F]."""
        return self.res_model.extract_feat(images)

    def normalize_prototypes(self) -> None:
        self.res_model.normalize_prototypes()

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
