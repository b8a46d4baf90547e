"""Builds our networks with the weights of `formula.py` and reads them back under PyTorch's names and layouts."""
import json
from pathlib import Path

import numpy as np

from passl.models.heads import HeadOptions
from passl.models.networks import MultiCropNetwork
from passl.models.resnet import BasicBlock, Bottleneck, ResNet
from tests.golden import formula

HERE = Path(__file__).parent
BLOCKS = {"Bottleneck": Bottleneck, "BasicBlock": BasicBlock}


def load(name):
    return json.loads((HERE / name).read_text())


def torch_name(name):
    """Structured name in `MultiCropNetwork` -> name in the originals' state dict."""
    name = name.replace("encoder.", "", 1)
    return name.replace("._mean", ".running_mean").replace("._variance", ".running_var")


def to_torch_layout(name, array):
    return array.T if array.ndim == 2 else array


def fill(network, seed=0, running_stats=False):
    """Set every entry of the network's state from the formula, in the network's own dtype."""
    for name, tensor in network.state_dict().items():
        shape = list(tensor.shape)
        array = formula.weight(torch_name(name), shape[::-1] if len(shape) == 2 else shape, seed, running_stats)
        tensor.set_value(np.ascontiguousarray(to_torch_layout(name, array)).astype(str(tensor.dtype).split(".")[-1]))
    return network


def network(block, layers, hidden, feat_dim, prototypes, width=1):
    options = HeadOptions(normalize=True, hidden_mlp=hidden, output_dim=feat_dim, nmb_prototypes=prototypes)
    return MultiCropNetwork(ResNet(BLOCKS[block], layers, width), options)
