"""Models by name, by run and by file; nothing random is passed off as trained."""
import subprocess
import sys

import numpy as np
import paddle
import pytest

import passl
from passl.models.networks import FineTunedNetwork, LinearProbeNetwork, MultiCropNetwork, PretrainNetwork
from passl.models.resnet import DEPTHS
from passl.weights import CheckpointError, read

SMALL = {"stem": "small", "base_channels": 4}


def test_importing_passl_does_not_import_paddle():
    code = "import sys, passl; dir(passl); sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("pattern, name", [("*linearprobe", "swav_resnet10_linearprobe"), ("*w2*", "resnet50w2"),
                                           ("swav*", "swav_resnet50_400ep"), ("resnet50", "resnet50")])
def test_wildcards_stand_anywhere(pattern, name):
    names = passl.list_models(pattern)
    assert name in names and names == sorted(names) and len(names) < len(passl.list_models())


def test_a_pattern_without_wildcards_is_part_of_a_name():
    assert passl.list_models(None) == passl.list_models() == passl.list_models("*")
    assert passl.list_models("swav") == passl.list_models("*swav*")


def test_paths_and_wrong_options(pretrained):
    assert isinstance(passl.get_model(pretrained / "latest"), PretrainNetwork)
    with pytest.raises(ValueError, match="no option 'base_chanels' .did you mean 'base_channels'"):
        passl.get_model("resnet10", base_chanels=4)


@pytest.mark.parametrize("name, kind, output", [
    ("resnet10", MultiCropNetwork, [2, 32]), ("swav_resnet10_pretrain", PretrainNetwork, None),
    ("swav_resnet10_linearprobe", LinearProbeNetwork, [2, 1000]),
    ("swav_resnet10_finetune", FineTunedNetwork, [2, 1000])])
def test_every_phase_by_name(name, kind, output):
    model = passl.get_model(name, **SMALL)
    images = paddle.rand([2, 3, 16, 16])
    assert type(model) is kind and not model.training
    assert list(model.extract_feat(images).shape) == [2, 32]
    if output:
        assert list(model(images).shape) == output


@pytest.mark.parametrize("name, hint", [
    ("resnet5", "did you mean 'resnet50'"), ("swav_resnet50_linearprob", "did you mean 'swav_resnet50_linearprobe'"),
    ("output/nowhere", "no file or folder")])
def test_wrong_names_suggest_the_nearest(name, hint):
    with pytest.raises(KeyError, match=hint):
        passl.get_model(name)


@pytest.mark.parametrize("suffix", ["", "/latest", "/latest.pdparams"])
def test_a_run_brings_its_architecture_weights_and_transform(pretrained, suffix):
    model = passl.get_model(f"{pretrained}{suffix}")
    assert isinstance(model, PretrainNetwork) and model.card.has_prototypes and not model.card.has_classifier
    assert model.card.transform[0] == {"Resize": {"size": 16}}
    norms = np.linalg.norm(model.res_model.prototypes.weight.numpy(), axis=0)
    np.testing.assert_allclose(norms, 1, atol=1e-6)


def test_a_file_without_config_is_built_from_its_shapes(pretrained, trained_probe, tmp_path):
    for folder, kind in ((pretrained, PretrainNetwork), (trained_probe, LinearProbeNetwork)):
        path = tmp_path / f"{folder.name}.pdparams"
        path.write_bytes((folder / "latest.pdparams").read_bytes())
        ours, theirs = passl.get_model(str(path)), passl.get_model(f"{folder}/latest")
        assert type(ours) is kind
        for name, value in theirs.state_dict().items():
            np.testing.assert_array_equal(ours.state_dict()[name].numpy(), value.numpy(), err_msg=name)


@pytest.mark.parametrize("name", DEPTHS)
def test_every_depth_is_known_by_its_weights(tmp_path, name):
    network = passl.get_model(name, **SMALL)
    paddle.save(network.state_dict(), str(tmp_path / "trunk.pdparams"))
    found = passl.get_model(str(tmp_path / "trunk.pdparams"))
    assert [value.shape for value in found.state_dict().values()] == [
        value.shape for value in network.state_dict().values()]


def test_classifier_knows_its_classes(trained_probe):
    model = passl.get_model(str(trained_probe))
    assert model.card.has_classifier and model.card.classes == ["colour_0", "colour_1", "colour_2"]
    assert model.card.transform == [{"Normalize": {"mean": 0.5, "std": 0.25}}]


def test_weights_of_a_run_bring_its_transform_and_classes_to_a_named_network(pretrained, trained_probe, tmp_path):
    trunk = passl.get_model("resnet10", pretrained=str(pretrained), **SMALL)
    assert trunk.card.transform == passl.get_model(str(pretrained)).card.transform
    probe = passl.get_model("swav_resnet10_linearprobe", pretrained=str(trained_probe), class_num=3, **SMALL)
    assert probe.card.transform == [{"Normalize": {"mean": 0.5, "std": 0.25}}]
    assert probe.card.classes == ["colour_0", "colour_1", "colour_2"]


@pytest.mark.parametrize("place, text", [
    ("..", "DataLoader: {Train: {dataset: {size_crops: [16]}}}"), (".", "model: {lr: 1}"), (".", "a: [1")])
def test_a_config_of_something_else_is_left_alone(pretrained, tmp_path, place, text):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / place / "config.yaml").write_text(text)
    (folder / "trunk.pdparams").write_bytes((pretrained / "latest.pdparams").read_bytes())
    assert passl.get_model(str(folder / "trunk.pdparams")).card.transform[0] == {"Resize": {"size": 16}}  # the file's
    paddle.save(dict(read(str(folder / "trunk.pdparams")).tensors), str(folder / "old.pdparams"))
    assert passl.get_model(str(folder / "old.pdparams")).card.transform[0] == {"Resize": {"size": 32}}  # assumed


def test_named_architecture_with_weights(pretrained, tmp_path):
    weights = str(pretrained / "latest")
    trunk = passl.get_model("resnet10", pretrained=weights, **SMALL)
    expected = passl.get_model(weights).res_model.encoder.conv1.weight.numpy()
    np.testing.assert_array_equal(trunk.encoder.conv1.weight.numpy(), expected)
    probe = passl.get_model("swav_resnet10_linearprobe", pretrained=weights, class_num=3, **SMALL)
    assert not probe.card.has_classifier
    with pytest.raises(CheckpointError, match="trunk"):
        passl.get_model("resnet34", pretrained=weights, **SMALL)
    with pytest.raises(CheckpointError, match="no weights at"):
        passl.get_model("resnet10", pretrained=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="no weights are released"):
        passl.get_model("resnet10", pretrained=True)
    with pytest.raises(ValueError, match="empty list"):
        passl.get_model("resnet10", pretrained=[])
    with pytest.raises(ValueError, match="brings its own"):
        passl.get_model(weights, base_channels=4)


def test_released_weights_are_looked_for_locally_first(pretrained, tmp_path, monkeypatch):
    from passl.weights import download

    asked = []
    monkeypatch.setattr(download, "weights_file", lambda entry: asked.append(entry.file) or str(pretrained / "latest"))
    with pytest.raises(CheckpointError):  # a resnet10 is no resnet50
        passl.get_model("swav_resnet50_pretrain", pretrained=True)
    assert asked == ["swav_800ep_pretrain.pth.tar"]
