"""The names a config's `Model.backbone.type` may take, each a trunk with its projection head and prototypes."""
from __future__ import annotations

from typing import List, Union

from passl.models.multi_crop import MultiCropNetwork
from passl.models.resnet import BasicBlock, Bottleneck, ResNet
from passl.registry import BACKBONES

_DEPTHS = {
    "resnet10": (BasicBlock, [1, 1, 1, 1]),  # for experiments on a CPU
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    # What Un-Mix calls resnet18 in its CIFAR tables: bottleneck blocks, 2048 features, 13.9M parameters.
    "resnet26": (Bottleneck, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
}
_WIDTHS = {"": 1, "w2": 2, "w4": 4, "w5": 5}  # those of the released wide networks
# name -> (block, blocks per stage, width multiplier)
ARCHITECTURES = {depth + suffix: (block, layers, width) for depth, (block, layers) in _DEPTHS.items()
                 for suffix, width in _WIDTHS.items()}
# PASSL's names for the same networks.
ALIASES = {"swav" + name: name for name in ARCHITECTURES}


def register(name: str) -> None:
    """Make the network `name` of ARCHITECTURES or ALIASES available as Model.backbone.type."""
    block, layers, width = ARCHITECTURES[ALIASES.get(name, name)]

    def build(normalize: bool = False, hidden_mlp: int = 0, output_dim: int = 0,
              nmb_prototypes: Union[int, List[int]] = 0, eval_mode: bool = False, head_batch_norm: bool = True,
              stem: str = "imagenet", base_channels: int = 64) -> MultiCropNetwork:
        """A ResNet trunk with projection head and prototypes.

        normalize: bring embeddings to unit length; every clustering method wants it.
        hidden_mlp: hidden units of the head (2048 published; 8192 and 10240 for wide networks); 0 is a single layer.
        output_dim: dimensions of an embedding (128 published); 0 builds the trunk alone.
        nmb_prototypes: prototypes, or a list of them for several heads; 0 builds none.
        eval_mode: return the feature map instead of embeddings, as PASSL's probe files ask.
        head_batch_norm: batch norm in the head; the released w5 was trained without.
        stem: imagenet (7x7 stride 2 and max-pool), small (3x3, for 32-pixel images) or small_padded (Un-Mix's).
        base_channels: channels of the first stage, 64 in every published network; fewer train on a CPU in minutes.
        """
        encoder = ResNet(block, layers, width, stem, base_channels)
        return MultiCropNetwork(encoder, normalize, hidden_mlp, output_dim, nmb_prototypes, head_batch_norm, eval_mode)

    BACKBONES.register(name)(build)


for _name in (*ARCHITECTURES, *ALIASES):
    register(_name)
