"""The names a config's `Model.backbone.type` may take, each a trunk with its projection head and prototypes."""
from __future__ import annotations

from typing import List, Union

from passl.models.multi_crop import MultiCropNetwork
from passl.models.resnet import BasicBlock, Bottleneck, ResNet
from passl.registry import BACKBONES

# name -> (block, blocks per stage, width multiplier)
ARCHITECTURES = {
    "resnet10": (BasicBlock, [1, 1, 1, 1], 1),  # for experiments on a CPU
    "resnet18": (BasicBlock, [2, 2, 2, 2], 1),
    "resnet34": (BasicBlock, [3, 4, 6, 3], 1),
    "resnet50": (Bottleneck, [3, 4, 6, 3], 1),
    "resnet101": (Bottleneck, [3, 4, 23, 3], 1),
    "resnet50w2": (Bottleneck, [3, 4, 6, 3], 2),
    "resnet50w4": (Bottleneck, [3, 4, 6, 3], 4),
    "resnet50w5": (Bottleneck, [3, 4, 6, 3], 5),
    # What Un-Mix calls resnet18 in its CIFAR tables: bottleneck blocks, 2048 features, 13.9M parameters.
    "resnet26": (Bottleneck, [2, 2, 2, 2], 1),
}
# PASSL's names for the same networks.
ALIASES = {"swav" + name: name for name in ARCHITECTURES}


def register(name: str) -> None:
    block, layers, width = ARCHITECTURES[ALIASES.get(name, name)]

    def build(normalize: bool = False, hidden_mlp: int = 0, output_dim: int = 0,
              nmb_prototypes: Union[int, List[int]] = 0, eval_mode: bool = False, head_batch_norm: bool = True,
              stem: str = "imagenet", base_channels: int = 64) -> MultiCropNetwork:
        encoder = ResNet(block, layers, width, stem, base_channels)
        return MultiCropNetwork(encoder, normalize, hidden_mlp, output_dim, nmb_prototypes, head_batch_norm, eval_mode)

    BACKBONES.register(name)(build)


for _name in (*ARCHITECTURES, *ALIASES):
    register(_name)
