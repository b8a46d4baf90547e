"""Features: order, padding, exactness over ranks, modes put back."""
import numpy as np
import paddle
import pytest
from PIL import Image

from passl import distributed
from passl.data import build_loader
from passl.inference.engine import evaluation_mode
from passl.inference.extract import extract_features, extract_shard
from passl.models.build import build_network
from tests.distributed.ranks import run_ranks

TRANSFORM = [{"Normalize": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}]


def write_images(root, counts=(4, 3), size=8):
    """Class folders a, b, ... of random pictures; the pixels of each file are its own."""
    for label, count in enumerate(counts):
        folder = root / chr(ord("a") + label)
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = np.random.RandomState(100 * label + number).randint(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def section(root, batch_size=2, sampler="DistributedBatchSampler", shuffle=False, **dataset):
    return {"dataset": {"name": "ImageFolder", "root": str(root), "transform": TRANSFORM, **dataset},
            "sampler": {"name": sampler, "batch_size": batch_size, "shuffle": shuffle}}


class FlatPixels(paddle.nn.Layer):
    """Its features are the pixels, so that a row shows which image it is."""

    def forward(self, images):
        return images.reshape([images.shape[0], -1])


def expected(root):
    files = sorted(root.rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file), np.float32).transpose(2, 0, 1).ravel() for file in files])
    return pixels / 127.5 - 1, np.array([ord(file.parent.name) - ord("a") for file in files])


@pytest.mark.parametrize("shuffle", [False, True])
def test_rows_are_in_the_order_of_the_data_set(tmp_path, shuffle):
    root = write_images(tmp_path / "data")
    features, labels = extract_features(FlatPixels(), build_loader(section(root, shuffle=shuffle), seed=3))
    pixels, truth = expected(root)
    assert features.dtype == np.float32 and labels.dtype == np.int64
    np.testing.assert_allclose(features, pixels, atol=1e-6)
    np.testing.assert_array_equal(labels, truth)


def on_ranks(root, sampler):
    loader = build_loader(section(root, batch_size=3, sampler=sampler), seed=0, rank=distributed.rank(),
                          world_size=distributed.world_size())
    features, labels = extract_features(FlatPixels(), loader)
    return {"features": features, "labels": labels}


@pytest.mark.dist
@pytest.mark.parametrize("sampler", ["DistributedBatchSampler", "BatchSampler"])
def test_ranks_get_every_image_once(tmp_path, sampler):
    root = write_images(tmp_path / "data")  # 7 images on 2 ranks: one of the rows is padding
    pixels, truth = expected(root)
    for run in run_ranks(on_ranks, 2, tmp_path, root=str(root), sampler=sampler):
        np.testing.assert_allclose(run.result["features"], pixels, atol=1e-6)
        np.testing.assert_array_equal(run.result["labels"], truth)


def test_unreadable_images_are_left_out(tmp_path, caplog):
    root = write_images(tmp_path / "data")
    (root / "a" / "1.png").write_bytes(b"not an image")
    shard = extract_shard(FlatPixels(), build_loader(section(root, image_errors="skip"), seed=0))
    assert "1.png" in caplog.text
    assert shard.indices.tolist() == [0, 2, 3, 4, 5, 6]


def test_trunk_features_and_modes(tmp_path):
    network = build_network({"type": "resnet10", "stem": "small", "base_channels": 4, "output_dim": 8,
                             "nmb_prototypes": 5})
    network.train()
    network.encoder.layer1.eval()
    before = {name: value.numpy().copy() for name, value in network.state_dict().items()}
    features, _ = extract_features(network, build_loader(section(write_images(tmp_path / "data")), seed=0))
    assert features.shape == (7, 32)
    assert network.training and network.encoder.layer2.training and not network.encoder.layer1.training
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_modes_come_back_after_an_error():
    network = paddle.nn.Sequential(paddle.nn.Dropout(0.5))
    with pytest.raises(RuntimeError), evaluation_mode(network):
        assert not network[0].training
        raise RuntimeError
    assert network[0].training


def test_refuses_crops_maps_and_broken_weights(tmp_path):
    root = write_images(tmp_path / "data")
    crops = {"dataset": {"name": "SwAVMultiCropDataset", "root": str(root), "size_crops": [8], "num_crops": [2],
                         "min_scale_crops": [0.5], "max_scale_crops": [1.0]}, "sampler": {
                             "name": "DistributedBatchSampler", "batch_size": 2}}
    with pytest.raises(ValueError, match="several crops"):
        extract_features(FlatPixels(), build_loader(crops, seed=0))
    loader = build_loader(section(root), seed=0)
    with pytest.raises(ValueError, match=r"no \[B, F\] features"):
        extract_features(paddle.nn.Identity(), loader)
    layer = paddle.nn.Sequential(FlatPixels(), paddle.nn.Linear(192, 2))
    layer[1].weight.set_value(np.full([192, 2], np.nan, np.float32))
    with pytest.raises(FloatingPointError, match="features of 7 images"):
        extract_features(layer, loader)
