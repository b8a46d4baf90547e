"""Trunks: parameter counts of every depth and width, initial weights, sizes of the feature map."""
import json
import math
from pathlib import Path

import numpy as np
import paddle
import pytest

from passl.models.build import build_network
from passl.models.resnet import DEPTHS, STEMS, WIDTHS, ResNet

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/reference_functions.json").read_text())["params"]


def count(layer) -> int:
    return sum(math.prod(p.shape) for p in layer.parameters() if not p.stop_gradient)


def widened(layers, expansion, width):
    """Trainable numbers of a bottleneck (expansion 4) or basic (1) ResNet, from the shapes of its layers alone."""
    channels = 64 * width
    total, inputs = 3 * 49 * channels + 2 * channels, channels
    for stage, blocks in enumerate(layers):
        planes = channels * 2 ** stage
        outputs = planes * expansion
        for block in range(blocks):
            if expansion == 4:
                total += inputs * planes + 9 * planes * planes + planes * outputs + 2 * (2 * planes + outputs)
            else:
                total += 9 * inputs * planes + 9 * planes * planes + 4 * planes
            if block == 0 and (stage > 0 or inputs != outputs):
                total += inputs * outputs + 2 * outputs
            inputs = outputs
    return total


@pytest.mark.parametrize("depth", DEPTHS)
def test_parameter_count_of_every_depth(depth):
    block, layers = DEPTHS[depth]
    assert count(build_network({"type": depth})) == widened(layers, block.expansion, 1)


@pytest.mark.parametrize("suffix", [suffix for suffix in WIDTHS if suffix])
def test_width_multiplies_every_layer(suffix):
    """With 16 base channels, w4 is the network of 64."""
    width = int(suffix[1:])
    narrow = build_network({"type": "resnet18" + suffix, "base_channels": 4})
    plain = build_network({"type": "resnet18", "base_channels": 4 * width})
    shapes = [{name: tuple(p.shape) for name, p in network.named_parameters()} for network in (narrow, plain)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", GOLDEN)
def test_parameter_counts_of_the_originals(name):
    """The formula that the built trunks obey, at the sizes of the releases (2.8 GB for w5: not built here)."""
    expected = GOLDEN[name]["by_module"]
    depth, _, wide = name.partition("w")
    (block, layers), width = DEPTHS[depth], int(wide or 1)
    hidden, features = GOLDEN[name]["hidden"], 2048 * width
    trunk = widened(layers, block.expansion, width)
    head = features * hidden + hidden + 2 * hidden + hidden * 128 + 128
    assert trunk == sum(number for part, number in expected.items() if part not in ("head", "prototypes"))
    assert (head, 3000 * 128) == (expected["head"], expected["prototypes"])
    assert trunk + head + 3000 * 128 == GOLDEN[name]["total"]


def test_initial_weights_are_the_originals():
    """Kaiming normal over the fan-out, unit batch norm, no residual that starts at zero; uniform heads."""
    paddle.seed(0)
    network = build_network({"type": "resnet50", "hidden_mlp": 512, "output_dim": 128, "nmb_prototypes": 300})
    trunk = network.encoder
    assert trunk.conv1.weight.numpy().std() == pytest.approx(math.sqrt(2 / (49 * 64)), rel=0.02)
    convolution = trunk.layer3[1].conv2.weight.numpy()
    assert convolution.std() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.01) and abs(convolution.mean()) < 1e-3
    for name, parameter in trunk.named_parameters():
        if "bn" in name and name.endswith(("weight", "bias")):
            assert (parameter.numpy() == (1.0 if name.endswith("weight") else 0.0)).all(), name
    for weight, fan_in in ((network.projection_head[0].weight, 2048), (network.projection_head[0].bias, 2048),
                           (network.projection_head[3].weight, 512), (network.prototypes.weight, 128)):
        largest = np.abs(weight.numpy()).max()
        assert 0.95 / math.sqrt(fan_in) < largest <= 1 / math.sqrt(fan_in)


@pytest.mark.parametrize("stem, first, last", [("imagenet", 8, 1), ("small", 32, 4), ("small_padded", 34, 5)])
def test_feature_maps_of_a_32_pixel_image(stem, first, last):
    network = ResNet(*DEPTHS["resnet26"], stem=stem, base_channels=4)
    images = paddle.zeros([1, 3, 32, 32])
    assert list(network.maxpool(network.conv1(images)).shape[2:]) == [first, first]
    assert list(network(images).shape) == [1, 128, last, last]


def test_the_cifar_network_of_un_mix_has_its_size():
    assert count(ResNet(*DEPTHS["resnet26"], stem="small_padded")) == 13_938_496


def test_stems_are_named_in_the_message():
    with pytest.raises(ValueError, match="stem 'large' is not known; choose one of " + ", ".join(STEMS)):
        build_network({"type": "resnet18", "stem": "large"})
