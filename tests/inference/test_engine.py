"""The forward loop: outputs by name, sources of every kind, and a network that is left as it was."""
import numpy as np
import paddle
import pytest

import passl
from passl.inference.engine import Engine
from passl.inference.images import find_images


@pytest.fixture
def network():
    return passl.get_model("swav_resnet10_pretrain", nmb_prototypes=[4, 7], base_channels=4, stem="small")


def test_outputs_are_the_network_s_own(network):
    images = paddle.randn([5, 3, 16, 16])
    found = Engine(network, batch_size=2).run(images, ("features", "embedding", "scores"))
    with paddle.no_grad():
        embedding, scores = network(images)
        expected = {"features": network.extract_feat(images), "embedding": embedding,
                    "scores": paddle.concat(scores, axis=1)}
    assert list(found) == list(expected)
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name].numpy(), atol=1e-5, err_msg=name)
    with pytest.raises(ValueError, match="gives features, embedding, scores, not logits"):
        Engine(network).run(images, ("features", "logits"))


def test_files_give_the_same_in_whatever_way_they_are_read(network, pictures):
    expected = Engine(network).run(pictures / "train")["features"]
    for engine, images in ((Engine(network, 4, workers=2), pictures / "train"),
                           (Engine(network, 3), find_images(pictures / "train"))):
        np.testing.assert_allclose(engine.run(images)["features"], expected, atol=1e-5)
    late = list(Engine(network, 4).stream(find_images(pictures / "train"), first_batch=2))
    assert [batch.start for batch in late] == [8] and late[0].indices.tolist() == [8, 9, 10]
    np.testing.assert_allclose(late[0].array("features"), expected[8:], atol=1e-5)


def test_unreadable_files_are_rows_of_nan_or_named_with_the_way_out(network, pictures, tmp_path):
    good = sorted((pictures / "val").rglob("*.png"))[0]
    (tmp_path / "0.png").write_bytes(b"broken")
    (tmp_path / "1.png").write_bytes(good.read_bytes())
    found = Engine(network, 2, skip_unreadable=True).run(tmp_path)["features"]
    assert np.isnan(found[0]).all() and np.isfinite(found[1]).all()
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"0\.png.*; skip_unreadable=True or --skip-unreadable leaves such files"):
            Engine(network, 2, workers).run(find_images(tmp_path))


def test_who_leaves_early_finds_modes_and_gradients_as_they_were(network):
    network.train()
    batches = Engine(network, 1).stream(paddle.zeros([3, 3, 16, 16]))
    assert next(batches).output["features"].stop_gradient and not network.training
    assert paddle.is_grad_enabled()
    batches.close()
    assert network.training
