"""Recomputed stages give the plain network's loss, gradients and running statistics."""
import numpy as np
import paddle
import pytest

from passl.models.heads import HeadOptions
from passl.models.networks import MultiCropNetwork
from passl.models.recompute import recompute_stages
from passl.models.resnet import BasicBlock, ResNet


def gradients(names):
    paddle.seed(0)
    network = MultiCropNetwork(ResNet(BasicBlock, [1, 1, 1, 1], stem="small", base_channels=4),
                               HeadOptions(normalize=True, hidden_mlp=8, output_dim=6, nmb_prototypes=5))
    if names is not None:
        recompute_stages(network.trunk, names)
    crops = [paddle.to_tensor(np.random.RandomState(k).randn(4, 3, size, size).astype("float32"))
             for k, size in enumerate((24, 24, 16))]
    _, scores = network(crops)
    (scores ** 2).sum().backward()
    result = {name: p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None}
    result.update({name: value.numpy() for name, value in network.state_dict().items() if value.stop_gradient})
    return result


@pytest.mark.parametrize("names", [["layer2"], ["layer1", "layer4"], []], ids=["one", "two", "all"])
def test_gradients_and_statistics_are_the_plain_networks(names):
    plain, recomputed = gradients(None), gradients(names)
    assert plain.keys() == recomputed.keys() and len(plain) > 40
    for name, value in plain.items():
        np.testing.assert_allclose(recomputed[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_unknown_stage_is_refused():
    with pytest.raises(ValueError, match="'layer9' is no stage; choose from layer1"):
        recompute_stages(ResNet(BasicBlock, [1, 1, 1, 1]), ["layer9"])
