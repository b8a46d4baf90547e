"""Weights for a network asked for by name: heads as the file or the release has them, and no random head passed off."""
import logging

import numpy as np
import paddle
import pytest

import passl
from passl.models.networks import LinearProbeNetwork
from passl.weights import CheckpointError, download, zoo
from tests.engine import runs
from tests.weights.checkpoints import filled, legacy_stream, pretraining_shapes, renamed, resnet_shapes

TRUNK = {"blocks": (2, 2, 2, 2), "channels": 8}  # a resnet26 of an eighth of its width
IMAGES = np.random.RandomState(0).randint(0, 256, (2, 32, 32, 3)).astype(np.uint8)


def written(path, shapes):
    """A released-like file of the shapes; its weights."""
    state = filled(shapes)
    path.write_bytes(legacy_stream(renamed(state, str, "module.")))
    return state


def linear_head(path, classes, features):
    state = filled({"linear.weight": (classes, features), "linear.bias": (classes,)})
    path.write_bytes(legacy_stream({"epoch": 100, "state_dict": renamed(state, str, "module."), "best_acc": 75.3}))
    return state


@pytest.mark.parametrize("prototypes, hidden, batch_norm", [
    ((11,), 12, True), ((11,), 40, False), ((11,), 0, True), ((5, 6, 7), 12, True)])
def test_heads_are_built_as_the_file_has_them(tmp_path, prototypes, hidden, batch_norm):
    path = tmp_path / "x.pth.tar"
    state = written(path, pretraining_shapes(prototypes, hidden, 6, batch_norm, **TRUNK))
    model = passl.get_model("swav_resnet26_pretrain", pretrained=str(path), base_channels=8)
    assert model.card.has_prototypes and model.card.source == str(path)
    last = [name for name in state if name.startswith("projection_head.") and name.endswith("weight")][-1]
    np.testing.assert_array_equal(model.state_dict()[f"res_model.{last}"].numpy(), state[last].T)
    head = model.res_model.prototypes
    for layer, name in zip(head.heads(), [name for name in state if name.startswith("prototypes.")]):
        rows = state[name] / np.linalg.norm(state[name], axis=1, keepdims=True)
        np.testing.assert_allclose(layer.weight.numpy(), rows.T, atol=1e-6)
    assert passl.assign(model, IMAGES).clusters.shape == (2, len(prototypes))


def test_released_name_takes_the_heads_of_another_file(tmp_path):
    path = tmp_path / "three.pth.tar"
    state = written(path, pretraining_shapes((5, 6, 7), 12, 6, blocks=(3, 4, 6, 3)))
    model = passl.get_model("swav_resnet50", pretrained=path, base_channels=8)
    assert model.card.has_prototypes and model.prototypes.counts == [5, 6, 7]
    np.testing.assert_array_equal(model.encoder.conv1.weight.numpy(), state["conv1.weight"])
    assert not passl.get_model("swav_resnet50", base_channels=8).card.has_prototypes


@pytest.mark.parametrize("name, hidden, norm", [
    ("swav_resnet50w2_pretrain", 8192, True), ("swav_resnet50w4", 8192, True),
    ("swav_resnet50w5_pretrain", 10240, False), ("swav_resnet10_pretrain", 2048, True)])
def test_without_a_file_the_head_is_the_release_s(name, hidden, norm):
    model = passl.get_model(name, base_channels=2)
    head = model.heads()["projection_head"]
    assert head[0].weight.shape[1] == hidden and len(head) == (4 if norm else 3)
    assert not model.card.has_prototypes


@pytest.mark.parametrize("options", [{"hidden_mlp": 20}, {"head_batch_norm": False}])
def test_prototypes_behind_a_random_head_are_not_trained(tmp_path, caplog, options):
    path = tmp_path / "x.pth.tar"
    written(path, pretraining_shapes((11,), 12, 6, **TRUNK))
    with caplog.at_level(logging.INFO, logger="passl"):
        model = passl.get_model("swav_resnet26_pretrain", pretrained=str(path), base_channels=8, **options)
    assert not model.card.has_prototypes
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "projection_head" in caplog.text
    with pytest.raises(ValueError, match="untrained"):
        passl.assign(model, IMAGES)


def test_what_was_loaded_is_logged(tmp_path, caplog):
    path = tmp_path / "x.pth.tar"
    written(path, pretraining_shapes((11,), 12, 6, **TRUNK))
    with caplog.at_level(logging.INFO, logger="passl"):
        passl.get_model(str(path))
        passl.get_model("resnet26", pretrained=str(path), base_channels=8)
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert "not used by the model" in caplog.records[1].message


def test_further_pretraining_with_other_prototypes(tmp_path):
    path = tmp_path / "x.pth.tar"
    state = written(path, pretraining_shapes((11,), 12, 6, **TRUNK))
    model = passl.get_model("swav_resnet26_pretrain", pretrained=str(path), base_channels=8, nmb_prototypes=4)
    assert model.res_model.prototypes.weight.shape == [6, 4] and not model.card.has_prototypes
    np.testing.assert_array_equal(model.res_model.projection_head[0].weight.numpy(),
                                  state["projection_head.0.weight"].T)
    np.testing.assert_array_equal(model.res_model.encoder.layer4[1].bn3._variance.numpy(),
                                  state["layer4.1.bn3.running_var"])
    pooled = passl.get_model("swav_resnet50", base_channels=8, output_dim=0, nmb_prototypes=0)
    assert pooled.projection_head is None


@pytest.mark.parametrize("count, loaded", [(6, True), (9, False)])
def test_trainer_starts_from_a_released_file(tmp_path, count, loaded):
    """Global.pretrained_model takes a PyTorch file; another prototype count keeps a new layer and trains."""
    path = tmp_path / "x.pth.tar"
    state = written(path, pretraining_shapes((6,), 8, 8, blocks=(1, 1, 1, 1), channels=4, bottleneck=False, kernel=3))
    config = runs.write_config(tmp_path, runs.write_images(tmp_path / "images"))
    run = runs.trainer(config, f"Global.pretrained_model={path}", f"Model.backbone.nmb_prototypes={count}",
                       "Global.max_train_step=2", "Model.queue_length=0")
    network = run.method.model.res_model
    np.testing.assert_array_equal(network.encoder.conv1.weight.numpy(), state["conv1.weight"])
    np.testing.assert_array_equal(network.projection_head[3].weight.numpy(), state["projection_head.3.weight"].T)
    assert network.prototypes.weight.shape == [8, count]
    rows = state["prototypes.weight"]
    if loaded:
        directions = network.prototypes.weight.numpy().T
        np.testing.assert_allclose(directions / np.linalg.norm(directions, axis=1, keepdims=True),
                                   rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=1e-6)
    run.run()
    assert run.step == 2 and (network.encoder.conv1.weight.numpy() != state["conv1.weight"]).any()


def test_trunk_and_linear_head_in_two_files(tmp_path):
    trunk, head = tmp_path / "trunk.pth.tar", tmp_path / "head.pth.tar"
    state = written(trunk, pretraining_shapes((11,), 12, 6, **TRUNK))
    linear = linear_head(head, 7, 256)
    model = passl.get_model("swav_resnet26_linearprobe", pretrained=[trunk, head], base_channels=8)
    assert isinstance(model, LinearProbeNetwork) and model.card.has_classifier
    np.testing.assert_array_equal(model.linear.linear.weight.numpy(), linear["linear.weight"].T)
    np.testing.assert_array_equal(model.res_model.encoder.conv1.weight.numpy(), state["conv1.weight"])
    images = paddle.rand([2, 3, 32, 32])
    expected = model.extract_feat(images).numpy() @ linear["linear.weight"].T + linear["linear.bias"]
    np.testing.assert_allclose(model(images).numpy(), expected, rtol=1e-5, atol=1e-5)
    for name in ("swav_resnet26_linearprobe", "swav_resnet50_linear"):
        with pytest.raises(CheckpointError, match="without a trunk.*--weights TRUNK --weights HEAD"):
            passl.get_model(name, pretrained=str(head), base_channels=8)
    with pytest.raises(CheckpointError, match=r"pretrained=\[TRUNK, HEAD\]"):
        passl.get_model(str(head))


def test_released_linear_head_comes_with_its_trunk(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSL_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    state = written(tmp_path / "weights" / "swav_800ep_pretrain.pth.tar",
                    pretraining_shapes((11,), 12, 6, blocks=(3, 4, 6, 3)))
    linear_head(tmp_path / "weights" / "swav_800ep_eval_linear.pth.tar", 1000, 256)
    model = passl.get_model("swav_resnet50_linear", pretrained=True, base_channels=8)
    assert model.card.has_classifier and list(model(paddle.rand([1, 3, 32, 32])).shape) == [1, 1000]
    np.testing.assert_array_equal(model.res_model.encoder.conv1.weight.numpy(), state["conv1.weight"])
    pretraining = passl.get_model("swav_resnet50", pretrained=True, base_channels=8)
    assert pretraining.card.has_prototypes and pretraining.prototypes.weight.shape == [6, 11]


def test_weights_option_of_the_commands_takes_two_files(tmp_path, monkeypatch):
    from passl.cli.model_options import make_model_parser, open_model

    asked = []
    monkeypatch.setattr(passl, "get_model", lambda name, pretrained: asked.append((name, pretrained)))
    parser = make_model_parser("passl-embed", "")
    for arguments in ([], ["--weights", "released"], ["--weights", "a", "--weights", "b"]):
        open_model(parser.parse_args(["resnet10", "--device", "cpu", "--threads", "1", *arguments]))
    assert [weights for _, weights in asked] == [None, True, ["a", "b"]]


@pytest.mark.parametrize("name", ["sela_alexnet", "sela_resnet50"])
def test_releases_without_a_network_say_so_before_they_are_fetched(name, monkeypatch):
    monkeypatch.setattr(download, "weights_file", lambda entry: pytest.fail("asked for the file"))
    with pytest.raises(KeyError, match=f"passl-convert {zoo.release(name).file} OUT"):
        passl.get_model(name, pretrained=True)


@pytest.mark.parametrize("name", [name for name in zoo.list_models() if name in passl.list_models()])
def test_every_listed_release_can_be_built(name):
    model = passl.get_model(name, base_channels=2)
    assert not model.card.has_prototypes and not model.card.has_classifier
    assert list(model.extract_feat(paddle.rand([1, 3, 32, 32])).shape)[0] == 1


def test_a_trunk_without_heads_leaves_the_pretraining_heads_untrained(tmp_path):
    path = tmp_path / "trunk.pth"
    written(path, resnet_shapes(**TRUNK))
    model = passl.get_model("swav_resnet26_pretrain", pretrained=str(path), base_channels=8)
    assert model.res_model.prototypes.weight.shape == [128, 3000] and not model.card.has_prototypes
