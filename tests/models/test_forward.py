"""Eval-mode forward passes of the full pretraining networks against numbers of the PyTorch original."""
import numpy as np
import paddle
import pytest

from passl.models.build import build_network
from tests.golden import formula
from tests.golden.networks import fill, load, torch_name


@pytest.mark.parametrize("case", ["forward_resnet50_s0.json",
                                  pytest.param("forward_resnet50w2_s0.json", marks=pytest.mark.slow)])
def test_forward_equals_reference(case):
    golden = load(case)
    network = build_network({"type": golden["model"], "normalize": True, "hidden_mlp": golden["hidden_mlp"],
                             "output_dim": golden["feat_dim"], "nmb_prototypes": golden["K"]})
    assert sum(int(np.prod(p.shape)) for p in network.parameters() if not p.stop_gradient) == golden["n_params"]
    fill(network, golden["seed"], running_stats=True).eval()
    crops = [paddle.to_tensor(c) for c in formula.crops(0, 0, golden["bs"], golden["crops"], golden["seed"])]
    with paddle.no_grad():
        embedding, scores = network(crops)
        trunk = network.encoder(crops[0]).mean(axis=[2, 3]).numpy()
    np.testing.assert_allclose(embedding.numpy(), golden["embedding"], atol=1e-4)
    np.testing.assert_allclose(scores.numpy()[:, :20], golden["scores_first20"], atol=1e-4)
    np.testing.assert_allclose(trunk[:, :32], golden["trunk_first32_crop0"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(trunk, axis=1), golden["trunk_norm_crop0"], rtol=1e-4)


def test_order_of_trainable_parameters_equals_the_reference():
    expected = load("reference_functions.json")["trainable_order_resnet50"]
    network = build_network({"type": "resnet50", "normalize": True, "hidden_mlp": 8, "output_dim": 4,
                             "nmb_prototypes": 3})
    assert [torch_name(name) for name, p in network.named_parameters() if not p.stop_gradient] == expected
