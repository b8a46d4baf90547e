"""Classifiers on a pretrained trunk: the linear probe and the fine-tuned network, under PASSL's parameter names."""
from __future__ import annotations

from typing import Any, Dict

import paddle
from paddle import nn

from passl.errors import UserError
from passl.registry import BACKBONES


class ProbeHead(nn.Layer):
    """Trunk features -> logits: [batch norm], Linear with weights from N(0, 0.01) and zero bias.

    With global pooling the input is [B, F]. Without, it is the map [B, F, h, w]: an average pool of side h - 1 and
    stride 1 (6 on the 7x7 map of a 224-pixel image) leaves 2x2 positions, i.e. 4 F features (8192 for ResNet-50).
    """

    def __init__(self, num_features: int, classes: int, global_pooling: bool = True, use_bn: bool = False):
        super().__init__()
        self.global_pooling = global_pooling
        self.bn = nn.BatchNorm2D(num_features) if use_bn else None
        weight = paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, 0.01))
        bias = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
        self.linear = nn.Linear(num_features * (1 if global_pooling else 4), classes, weight_attr=weight,
                                bias_attr=bias)

    def forward(self, features):
        if self.global_pooling:
            pooled = features.unsqueeze([2, 3])
        else:
            height, width = features.shape[2:]
            if min(height, width) < 2:
                raise UserError(f"Model.global_pooling False needs a feature map of at least 2x2, got {height}x{width}"
                                ": use larger images (64 pixels with the ImageNet stem) or global pooling")
            pooled = nn.functional.avg_pool2d(features, [height - 1, width - 1], stride=1)
        if self.bn is not None:
            pooled = self.bn(pooled)
        return self.linear(pooled.flatten(1))


class LinearProbeModel(nn.Layer):
    """A frozen trunk (`res_model.encoder.*`) under a linear classifier (`linear.linear.*`, `linear.bn.*`).

    The trunk gets no gradient and stays in evaluation mode whatever `train` is called with, so that neither its
    weights nor its running statistics ever change.
    """

    def __init__(self, backbone: Dict[str, Any], classes: int, global_pooling: bool = True, use_bn: bool = False):
        super().__init__()
        self.res_model = BACKBONES.build(backbone, key="type")
        self.linear = ProbeHead(self.res_model.num_features, classes, global_pooling, use_bn)
        for parameter in self.res_model.parameters():
            parameter.stop_gradient = True
        self.res_model.eval()

    def train(self):
        super().train()
        self.res_model.eval()

    def extract_feat(self, images: paddle.Tensor) -> paddle.Tensor:
        """Images [B, 3, H, W] -> pooled trunk features [B, F]."""
        return self.res_model.extract_feat(images)

    def forward(self, images):
        with paddle.no_grad():
            features = self.extract_feat(images) if self.linear.global_pooling else self.res_model.encoder(images)
        return self.linear(features)


class FineTuneModel(nn.Layer):
    """A trunk (`res_model.encoder.*`) and one Linear (`res_model.projection_head.*`), trained together."""

    def __init__(self, backbone: Dict[str, Any], classes: int):
        super().__init__()
        self.res_model = BACKBONES.build({**backbone, "output_dim": classes}, key="type")

    def extract_feat(self, images: paddle.Tensor) -> paddle.Tensor:
        """Images [B, 3, H, W] -> pooled trunk features [B, F]."""
        return self.res_model.extract_feat(images)

    def forward(self, images):
        return self.res_model(images)
