"""ResNet trunks (He et al. 2016) as in the SwAV releases: stride in the 3x3, no zero-initialised residuals.

Parameter names are torchvision's, so that released weights map one to one. Widths multiply the stem and every stage
(a uniform widening, not torchvision's wide inner convolution).

Running statistics: Paddle's CPU kernel stores the *biased* batch variance in `_variance` where PyTorch stores the
unbiased one (a factor n/(n-1), n = values per channel). Training is not affected; at ImageNet sizes the ratio
is 1.0000006 in the first layer and 1.0003 in the last. See docs/parity.md.
"""
from __future__ import annotations

from typing import Sequence, Type

from paddle import nn

from passl.errors import UserError
from passl.models.convolution import Convolution
from passl.models.stems import STEMS
from passl.registry import BACKBONES


class BasicBlock(nn.Layer):
    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int):
        super().__init__()
        self.conv1 = Convolution(inputs, planes, 3, stride, 1)
        self.bn1 = nn.BatchNorm2D(planes)
        self.relu = nn.ReLU()
        self.conv2 = Convolution(planes, planes, 3, 1, 1)
        self.bn2 = nn.BatchNorm2D(planes)
        self.downsample = shortcut(inputs, planes * self.expansion, stride)

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + identity)


class Bottleneck(nn.Layer):
    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int):
        super().__init__()
        self.conv1 = Convolution(inputs, planes, 1)
        self.bn1 = nn.BatchNorm2D(planes)
        self.conv2 = Convolution(planes, planes, 3, stride, 1)
        self.bn2 = nn.BatchNorm2D(planes)
        self.conv3 = Convolution(planes, planes * self.expansion, 1)
        self.bn3 = nn.BatchNorm2D(planes * self.expansion)
        self.relu = nn.ReLU()
        self.downsample = shortcut(inputs, planes * self.expansion, stride)

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + identity)


def shortcut(inputs: int, outputs: int, stride: int):
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(Convolution(inputs, outputs, 1, stride), nn.BatchNorm2D(outputs))


class ResNet(nn.Layer):
    """Convolutional trunk: [B, 3, H, W] float -> feature map [B, num_features, H/32, W/32] (H/8 with a small stem).

    block: BasicBlock or Bottleneck. layers: blocks in each of the four stages. width: channel multiplier.
    stem: a key of STEMS. base_channels: channels of the first stage before the multiplier (64 in every published
    model; smaller makes a network that trains on a CPU in minutes).
    """

    stages = ("layer1", "layer2", "layer3", "layer4")

    def __init__(self, block: Type[nn.Layer], layers: Sequence[int], width: int = 1, stem: str = "imagenet",
                 base_channels: int = 64):
        super().__init__()
        if stem not in STEMS:
            raise UserError(f"stem '{stem}' is not known; choose one of {', '.join(STEMS)}")
        if base_channels < 1 or width < 1:
            name, value = ("base_channels", base_channels) if base_channels < 1 else ("width", width)
            raise UserError(f"Model.backbone.{name} is {value}; a network needs at least one channel: 64 channels and "
                            "width 1 are usual")
        self.stem = stem
        kernel, stride, padding, pool = STEMS[stem]
        channels = base_channels * width
        self.conv1 = Convolution(3, channels, kernel, stride, padding)
        self.bn1 = nn.BatchNorm2D(channels)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2D(3, 2, 1) if pool else nn.Identity()
        inputs = channels
        for stage, blocks in enumerate(layers, start=1):
            planes = channels * 2 ** (stage - 1)
            stage_blocks = []
            for index in range(blocks):
                stage_blocks.append(block(inputs, planes, 2 if index == 0 and stage > 1 else 1))
                inputs = planes * block.expansion
            setattr(self, f"layer{stage}", nn.Sequential(*stage_blocks))
        self.num_features = inputs

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return x


DEPTHS = {
    "resnet10": (BasicBlock, [1, 1, 1, 1]),  # for experiments on a CPU
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    # What Un-Mix calls resnet18 in its CIFAR tables: bottleneck blocks, 2048 features, 13.9M parameters.
    "resnet26": (Bottleneck, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
}
WIDTHS = {"": 1, "w2": 2, "w4": 4, "w5": 5}  # those of the released wide networks


def _register(depth: str, suffix: str) -> None:
    (block, layers), width = DEPTHS[depth], WIDTHS[suffix]

    def build(stem: str = "imagenet", base_channels: int = 64) -> ResNet:
        """A ResNet trunk.

        stem: imagenet (7x7 stride 2 and max-pool), small (3x3, for 32-pixel images), small_padded (3x3 that pads by 2,
            as Un-Mix and solo-learn have it) or small_pooled (3x3 and max-pool).
        base_channels: channels of the first stage, 64 in every published network; fewer train on a CPU in minutes.
        """
        return ResNet(block, layers, width, stem, base_channels)

    name = depth + suffix
    BACKBONES.register(name, aliases=["swav" + name])(build)  # PASSL's name for the same network


for _depth in DEPTHS:
    for _suffix in WIDTHS:
        _register(_depth, _suffix)
