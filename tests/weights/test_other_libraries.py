"""The files we hand on, loaded by the libraries they are for. Runs where those are installed."""
import importlib
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from passl.weights import convert_file
from passl.weights.formats.writers import write_torch
from tests.golden import formula

GOLDEN = Path(formula.__file__).parent


def _installed(module, command):
    """The module, or a skip that says how to get it and what an incomplete installation lacks."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        pytest.skip(f"{error}; to check against the real package: {command}")


@pytest.fixture
def paddledet():
    zlib.decompress(zlib.compress(b""))  # before pycocotools and shapely bring their own zlib
    return _installed("ppdet", "pip install paddledet==2.6.0 scikit-learn  # paddledet does not ask for scikit-learn")


@pytest.fixture
def torch():
    return _installed("torch", "pip install torch  # its CPU build suffices")


@pytest.fixture
def released(tmp_path):
    shapes = json.loads((GOLDEN / "reference_functions.json").read_text())["state_dict_resnet50"]
    state = {f"module.{name}": formula.weight(name, shape) for name, shape in shapes.items()}
    write_torch(str(tmp_path / "in.pth"), state)
    return str(tmp_path / "in.pth")


def test_paddledetection_loads_the_trunk_and_computes_the_reference(paddledet, released, tmp_path):
    import paddle
    from ppdet.modeling.backbones.resnet import ResNet
    from ppdet.utils.checkpoint import load_pretrain_weight

    path = str(tmp_path / "trunk.pdparams")
    written = convert_file(released, path, "paddledet").state
    network = ResNet(depth=50, variant="b", norm_type="bn", return_idx=[3], num_stages=4)
    load_pretrain_weight(network, path)
    state = network.state_dict()
    assert set(state) == set(written)
    for name, array in written.items():
        np.testing.assert_array_equal(state[name].numpy(), array)
    network.eval()
    images = formula.crops(0, 0, 2, [(96, 2), (64, 2)], 0)[0]
    features = network({"image": paddle.to_tensor(images)})[-1].mean(axis=[2, 3]).numpy()
    golden = json.loads((GOLDEN / "forward_resnet50_s0.json").read_text())["trunk_first32_crop0"]
    np.testing.assert_allclose(features[:, :32], golden, rtol=1e-4, atol=1e-3)


def test_torch_loads_what_we_write(torch, released, tmp_path):
    for target in ("torch", "torchvision"):
        state = convert_file(released, str(tmp_path / "out.pth"), target).state
        loaded = torch.load(tmp_path / "out.pth", weights_only=True)
        assert list(loaded) == list(state)
        for name, array in state.items():
            np.testing.assert_array_equal(loaded[name].numpy(), array)
