"""predict, embed and assign on every kind of picture."""
import json

import numpy as np
import paddle
import pytest
from PIL import Image

import passl
from passl.data.batch import Normalizer

SMALL = {"stem": "small", "base_channels": 4}


@pytest.fixture(scope="module")
def model(pretrained):
    return passl.get_model(str(pretrained))


@pytest.fixture(scope="module")
def expected(model, picture):
    """Features of `picture`, by hand."""
    resized = Image.fromarray(picture).resize((int(16 * 17 / 14), 16), Image.BILINEAR)
    left = round((resized.width - 16) / 2)
    pixels = np.asarray(resized.crop((left, 0, left + 16, 16)))
    images = Normalizer([0.485, 0.456, 0.406], [0.228, 0.224, 0.225])(paddle.to_tensor(pixels[None]))
    return images, model.extract_feat(images).numpy()


def kinds(picture, images, folder):
    path = folder / "picture.png"
    Image.fromarray(picture).save(path)
    return {"path": str(path), "Path": path, "array": picture, "channels first": picture.transpose(2, 0, 1),
            "PIL": Image.fromarray(picture), "uint8 tensor": paddle.to_tensor(picture), "float tensor": images[0],
            "batch of tensors": images, "batch of arrays": picture[None], "float array": images.numpy(),
            "list": [picture], "folder": folder}


def test_embed_takes_every_kind(model, picture, expected, tmp_path):
    images, features = expected
    for name, given in kinds(picture, images, tmp_path).items():
        result = passl.embed(model, given)
        assert result.shape == (1, 32) and result.dtype == np.float32, name
        np.testing.assert_allclose(result, features, atol=1e-5, err_msg=name)


def test_lists_mix_kinds_and_batches_do_not_matter(model, picture, expected, tmp_path):
    images, features = expected
    mixed = list(kinds(picture, images, tmp_path).values())
    for batch_size in (1, 5):
        np.testing.assert_allclose(passl.embed(model, mixed, batch_size=batch_size), np.repeat(features, len(mixed), 0),
                                   atol=1e-5)


def test_grey_pictures(model):
    grey = np.random.RandomState(1).randint(0, 256, (16, 16)).astype(np.uint8)
    three = np.repeat(grey[..., None], 3, 2)
    np.testing.assert_array_equal(passl.embed(model, grey), passl.embed(model, three))
    np.testing.assert_array_equal(passl.embed(model, Image.fromarray(grey)), passl.embed(model, three))


@pytest.mark.parametrize("given, message", [
    ([], "empty"), (3, "cannot read images from int"), ({"a": 1}, "cannot read images from dict"),
    (np.zeros((4, 4, 3)), "floats are normalised tensors"), (np.zeros((4, 4, 3), np.int64), "must be uint8"),
    (np.zeros((4, 4, 2), np.uint8), "uint8 arrays are"), ("nowhere.jpg", "nowhere.jpg"),
    (np.zeros((2, 2), np.float32), "floats are"), (np.zeros((0, 16, 16, 3), np.uint8), "batch of images is empty"),
    (np.zeros((0, 0, 3), np.uint8), "empty picture"), (paddle.zeros([3, 0, 4]), "empty picture"),
    (Image.new("RGB", (0, 4)), "empty picture")])
def test_bad_input_is_named(model, given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        passl.embed(model, given)


def test_numbers_below_one_are_refused(model, trained_probe, picture):
    with pytest.raises(ValueError, match="batch_size is 0"):
        passl.embed(model, picture, batch_size=0)
    for top_k in (0, -1):
        with pytest.raises(ValueError, match="top_k is"):
            passl.inference_model(str(trained_probe), picture, top_k=top_k)


def test_a_path_stands_for_a_model(pretrained, trained_probe, model, picture, expected):
    np.testing.assert_allclose(passl.embed(str(pretrained), picture), expected[1], atol=1e-5)
    assert (passl.assign(pretrained, picture).clusters == passl.assign(model, picture).clusters).all()
    assert passl.inference_model(trained_probe, picture)["pred_class"].startswith("colour_")
    with pytest.raises(KeyError, match="did you mean 'resnet50'"):
        passl.embed("resnet5", picture)


def test_half_precision_and_sixteen_bit_pictures(model, picture, expected, tmp_path):
    half = passl.embed(model, expected[0].astype("bfloat16"))
    np.testing.assert_allclose(half, expected[1], atol=0.05 * np.abs(expected[1]).max())
    deep = Image.fromarray(np.random.RandomState(2).randint(0, 65536, (16, 16)).astype(np.uint16))
    deep.save(tmp_path / "deep.png")
    np.testing.assert_array_equal(passl.embed(model, deep), passl.embed(model, tmp_path / "deep.png"))


def test_a_list_file_stands_for_its_images(model, pictures, tmp_path):
    paths = sorted((pictures / "val").rglob("*.png"))[:3]
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    np.testing.assert_array_equal(passl.embed(model, tmp_path / "list.txt"), passl.embed(model, paths))


def test_tensors_of_different_sizes_in_one_batch(model):
    with pytest.raises(ValueError, match="fixed size"):
        passl.embed(model, [paddle.zeros([3, 16, 16]), paddle.zeros([3, 20, 20])])


def test_inference_model(trained_probe, pictures):
    model = passl.get_model(str(trained_probe))
    paths = sorted((pictures / "val").rglob("*.png"))
    results = passl.inference_model(model, [str(path) for path in paths], top_k=2)
    assert len(results) == len(paths)
    for result in results:
        scores = result["pred_scores"]
        assert scores.shape == (3,) and scores.sum() == pytest.approx(1, abs=1e-5)
        assert result["pred_label"] == scores.argmax() and result["pred_score"] == scores.max()
        assert result["pred_class"] == f"colour_{result['pred_label']}"
        assert result["top"][0] == (result["pred_class"], result["pred_score"]) and len(result["top"]) == 2
    single = passl.inference_model(model, str(paths[0]))
    assert isinstance(single, dict) and single["pred_label"] == results[0]["pred_label"]
    right = np.mean([result["pred_class"] == path.parent.name for path, result in zip(paths, results)])
    records = [json.loads(line) for line in (trained_probe / "metrics.jsonl").read_text().splitlines()]
    assert right == pytest.approx(max(record.get("eval_top1", 0) for record in records))


def test_outputs_that_are_not_finite_are_no_answers(pretrained, pictures):
    from passl.inference.engine import Engine
    from passl.inference.images import find_images

    model = passl.get_model(str(pretrained))
    prototypes = model.res_model.prototypes.weight
    prototypes.set_value(np.full(prototypes.shape, np.nan, np.float32))
    with pytest.raises(FloatingPointError, match="gives NaN or infinity"):
        passl.assign(model, np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(FloatingPointError, match="gives NaN or infinity"):
        next(Engine(model, batch_size=2).stream(find_images([str(pictures / "val")]), ("scores",)))


def test_untrained_classifiers_refuse(pretrained, model):
    with pytest.raises(ValueError, match="has no classifier"):
        passl.inference_model(model, np.zeros((16, 16, 3), np.uint8))
    probe = passl.get_model("swav_resnet10_linearprobe", pretrained=str(pretrained / "latest"), **SMALL)
    with pytest.raises(ValueError, match="would be random"):
        passl.inference_model(probe, np.zeros((16, 16, 3), np.uint8))


def test_assign(model, pictures):
    clusters, confidence = passl.assign(model, pictures / "train")
    assert clusters.shape == (11, 1) and clusters.dtype == np.int64 and confidence.dtype == np.float32
    features = passl.embed(model, pictures / "train")
    embedding, scores = model.res_model.project(paddle.to_tensor(features))
    np.testing.assert_array_equal(clusters[:, 0], scores.numpy().argmax(1))
    logits = scores.numpy() / 0.1
    np.testing.assert_allclose(confidence[:, 0], (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).max(1),
                               atol=1e-5)


def test_balanced_assignment_uses_more_clusters(model, pictures):
    free, balanced = (passl.assign(model, pictures / "train", balanced=value).clusters for value in (False, True))
    assert len(np.unique(balanced)) > len(np.unique(free)) or len(np.unique(free)) == 6


def test_assign_under_several_heads():
    from passl.inference.engine import Engine

    model = passl.get_model("swav_resnet10_pretrain", nmb_prototypes=[4, 7], **SMALL)
    with pytest.raises(ValueError, match="prototypes of .* are untrained"):
        passl.assign(model, np.zeros((16, 16, 3), np.uint8))
    model.card.has_prototypes = True
    clusters, confidence = passl.assign(model, np.zeros((2, 16, 16, 3), np.uint8))
    assert clusters.shape == confidence.shape == (2, 2)
    assert model.head_sizes == [4, 7]
    assert Engine(model).run(paddle.zeros([2, 3, 16, 16]), ("scores",))["scores"].shape == (2, 11)
    with pytest.raises(ValueError, match="has no prototypes"):
        passl.assign(passl.get_model("resnet10", **SMALL), np.zeros((16, 16, 3), np.uint8))
