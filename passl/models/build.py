"""The one builder of networks."""
from __future__ import annotations

from dataclasses import fields
from typing import Any, Mapping

from passl.models import networks
from passl.models.base import Network
from passl.models.heads import HeadOptions
from passl.registry import BACKBONES

NETWORKS = {"trunk": networks.MultiCropNetwork, "pretrain": networks.PretrainNetwork,
            "cluster heads": networks.ClusterHeadNetwork, "linearprobe": networks.LinearProbeNetwork,
            "finetune": networks.FineTunedNetwork}


def build_network(backbone: Mapping[str, Any], kind: str = "trunk", **options: Any) -> Network:
    """The network of a config's Model.backbone, with random weights.

    backbone: `type` names a trunk; the other keys are the trunk's own and those of `HeadOptions`.
    kind: a key of NETWORKS. "trunk" is the trunk with the heads that the keys ask for, under the names `encoder.*`;
        every other kind is what one phase trains, under `res_model.encoder.*`.
    options: of a classifier: class_num, and for a linear probe global_pooling and use_bn.
    UnknownComponent names the nearest trunk; UserError tells which keys do not fit together.

    Example:
        >>> network = build_network({"type": "resnet10", "base_channels": 4}, "linearprobe", class_num=3)
        >>> {name: output.shape for name, output in network.outputs(paddle.zeros([2, 3, 32, 32])).items()}
        {'features': [2, 32], 'logits': [2, 3]}
    """
    names = {field.name for field in fields(HeadOptions)}
    trunk = BACKBONES.build({key: value for key, value in backbone.items() if key not in names}, key="type")
    head = HeadOptions(**{key: value for key, value in backbone.items() if key in names})
    return NETWORKS[kind](trunk, head, **options)
