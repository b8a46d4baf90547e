"""The stems of the ResNets. Without Paddle, because conversion asks too."""
from __future__ import annotations

# name -> (kernel, stride, padding, max-pool). The weights tell the kernel; the rest a file has to say.
STEMS = {
    "imagenet": (7, 2, 3, True),
    # 32-pixel images: keeps the full resolution for the first stage, as in the CIFAR variants of SimCLR and lightly.
    "small": (3, 1, 1, False),
    # The CIFAR network of Un-Mix, whose explicit 1-pixel pad comes on top of padding 1, and of solo-learn, which pads
    # by 2: a 34x34 first map.
    "small_padded": (3, 1, 2, False),
    # A 3x3 first convolution in front of the max-pool that torchvision's network keeps.
    "small_pooled": (3, 1, 1, True),
}
