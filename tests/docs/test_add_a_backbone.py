"""The example of docs/add_a_backbone.md trains as it stands there and works everywhere, without any other edit."""
import re
import sys

import numpy as np
import paddle
import pytest

import passl
import passl.models
from passl.cli import embed, export, knn, train
from passl.inference.exported import run_exported
from passl.models.build import build_network
from passl.registry import BACKBONES, METHODS
from passl.weights import CheckpointError, read
from tests.engine.runs import CONFIG, write_images
from tests.methods import classifiers

SERIAL = ["--device", "cpu", "--workers", "0", "--batch-size", "4", "--threads", "1"]


@pytest.fixture(scope="module")
def example(repository, tmp_path_factory):
    """(folder, config); the trunk lies in a folder that belongs to the package, as a new file in it would."""
    folder = tmp_path_factory.mktemp("plainnet")
    text = (repository / "docs" / "add_a_backbone.md").read_text()
    code, model = (re.search(rf"```{kind}\n(.*?)```", text, re.S).group(1) for kind in ("python", "yaml"))
    assert 20 <= len(code.splitlines()) <= 40
    (folder / "models").mkdir()
    (folder / "models" / "plainnet.py").write_text(code)
    assert "plainnet" not in BACKBONES and "swav_plainnet_pretrain" not in METHODS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passl.models, "__path__", [*passl.models.__path__, str(folder / "models")])
        patch.setattr(BACKBONES, "_imported", False)  # as at the start of a process
        settings = CONFIG.format(images=write_images(folder / "images"), output=folder / "output", batch=4)
        start, end = settings.index("Model:"), settings.index("Optimizer:")
        (folder / "run.yaml").write_text(settings[:start] + model + settings[end:])
        yield folder, folder / "run.yaml"
    BACKBONES._entries.pop("plainnet", None)
    sys.modules.pop("passl.models.plainnet", None)


@pytest.fixture(scope="module")
def run(example):
    """Folder of the trained network: stopped in the middle of the second epoch, and resumed."""
    folder, config = example
    output = folder / "resumed"
    assert train.main(["-c", str(config), "-o", f"Global.output_dir={output}", "Global.max_train_step=7"]) == 0
    run = output / "swav_plainnet_pretrain"
    assert train.main(["-c", str(config), "-o", f"Global.output_dir={output}", f"Global.checkpoint={run}/latest"]) == 0
    return run


def weights(folder):
    return read(folder / "latest" / "passl.pdparams").tensors


def test_trains_and_resumes_exactly(example, run):
    folder, config = example
    assert train.main(["-c", str(config)]) == 0
    straight = weights(folder / "output" / "swav_plainnet_pretrain")
    assert {"res_model.encoder.stage3.0.weight", "res_model.projection_head.3.bias"} < set(straight)
    for name, value in weights(run).items():
        np.testing.assert_array_equal(value, straight[name], err_msg=name)
    again = ["-o", f"Global.output_dir={folder / 'recomputed'}", "Global.epochs=1"]
    assert train.main(["-c", str(config), *again, "DistributedStrategy.recompute={names: [stage2]}"]) == 0
    assert train.main(["-c", str(config), *again, "Global.overwrite=True",
                       "DistributedStrategy.recompute={names: [layer2]}"]) == 1


def test_get_model_builds_it_by_run_by_name_and_by_file(example, run, tmp_path):
    model, saved = passl.get_model(run), weights(run)
    assert model.card.has_prototypes and model.head_sizes == [6] and model.card.transform[0] == {"Resize": {"size": 16}}
    for name, tensor in model.state_dict().items():
        if "prototypes" not in name:  # brought to unit length
            np.testing.assert_array_equal(tensor.numpy(), saved[name], err_msg=name)
    assert "plainnet" in passl.list_models() and "swav_plainnet_finetune" in passl.list_models()
    trunk = passl.get_model("plainnet", pretrained=run, channels=8)
    images = paddle.rand([2, 3, 16, 16])
    np.testing.assert_array_equal(trunk(images).numpy(), model.extract_feat(images).numpy())
    paddle.save(trunk.state_dict(), str(tmp_path / "trunk.pdparams"))
    again = passl.get_model("plainnet", pretrained=tmp_path / "trunk.pdparams", channels=8)
    np.testing.assert_array_equal(again(images).numpy(), trunk(images).numpy())
    with pytest.raises(CheckpointError, match="does not tell which trunk"):
        passl.get_model(tmp_path / "trunk.pdparams")
    with pytest.raises(CheckpointError, match="5 trunk weights are missing or of another shape"):
        passl.get_model("plainnet", pretrained=run, channels=8, depth=4)


def test_embeds_votes_and_exports(example, run, tmp_path):
    images = example[0] / "images"
    expected = passl.embed(run, images)
    assert embed.main([str(run), str(images), "--output", str(tmp_path / "embedded"), *SERIAL]) == 0
    features = np.load(tmp_path / "embedded" / "features.npy")
    np.testing.assert_allclose(features, expected, atol=1e-6)
    assert features.shape == (22, 32) and passl.assign(run, images).clusters.shape == (22, 1)
    assert knn.main([str(run), "--train", str(images), "--test", str(images), "--k", "1", *SERIAL]) == 0
    assert export.main(["--model", str(run), "--to", str(tmp_path / "net"), "--output", "embedding"]) == 0
    pixels = np.random.RandomState(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    live = passl.get_model(run).outputs(paddle.to_tensor(pixels))["embedding"].numpy()
    np.testing.assert_allclose(run_exported(tmp_path / "net", pixels), live, atol=1e-5)


@pytest.mark.parametrize("phase", ["linearprobe", "finetune"])
def test_probe_and_fine_tuning_start_from_it(run, tmp_path, phase):
    config = classifiers.write_config(tmp_path, classifiers.write_squares(tmp_path / "pictures"), epochs=1)
    model = {"name": f"swav_plainnet_{phase}", "backbone": {"type": "plainnet", "channels": 8}}
    assert train.main(["-c", str(config), "-o", f"Global.pretrained_model={run}", f"Model={model}"]) == 0
    folder = tmp_path / "output" / f"swav_plainnet_{phase}"
    if phase == "linearprobe":
        np.testing.assert_array_equal(weights(folder)["res_model.encoder.stage1.0.weight"],
                                      weights(run)["res_model.encoder.stage1.0.weight"])
    result = passl.inference_model(folder, np.zeros([16, 16, 3], np.uint8))
    assert result["pred_class"].startswith("colour_") and result["pred_scores"].shape == (3,)


class Vector(paddle.nn.Layer):
    """A trunk that gives a vector."""

    stages = ("body",)

    def __init__(self):
        super().__init__()
        self.num_features = 5
        self.body = paddle.nn.Sequential(paddle.nn.AdaptiveAvgPool2D(1), paddle.nn.Flatten(), paddle.nn.Linear(3, 5))

    def forward(self, images):
        return self.body(images)


@pytest.mark.parametrize("kind, options, shapes", [
    ("trunk", {}, {"features": [2, 5]}),
    ("pretrain", {"output_dim": 4, "nmb_prototypes": [6, 7]}, {"features": [2, 5], "embedding": [2, 4],
                                                               "scores": [2, 13]}),
    ("cluster heads", {"nmb_prototypes": [6, 7]}, {"features": [2, 5], "scores": [2, 13]}),
    ("linearprobe", {}, {"features": [2, 5], "logits": [2, 3]}),
    ("finetune", {}, {"features": [2, 5], "logits": [2, 3]})])
def test_a_trunk_may_give_a_vector(monkeypatch, kind, options, shapes):
    BACKBONES.names()
    monkeypatch.setattr(BACKBONES, "_entries", dict(BACKBONES._entries))
    BACKBONES.register("vector")(Vector)
    own = {"class_num": 3} if "logits" in shapes else {}
    images = paddle.rand([2, 3, 8, 8])
    network = build_network({"type": "vector", **options}, kind, **own)
    outputs = network.outputs(images)
    assert {name: list(output.shape) for name, output in outputs.items()} == shapes
    assert list(outputs) == list(network.output_heads) and sum(network.head_sizes) == shapes.get("scores", [0, 0])[1]
    result = network(images)
    if kind in ("trunk", "linearprobe", "finetune"):
        np.testing.assert_array_equal(result.numpy(), list(outputs.values())[-1].numpy())
    else:
        np.testing.assert_array_equal(paddle.concat(result[1], axis=1).numpy(), outputs["scores"].numpy())
    np.testing.assert_array_equal(build_network({"type": "vector", "eval_mode": True})(images).shape, [2, 5])
    with pytest.raises(ValueError, match="trunk gives a vector: leave the key out"):
        build_network({"type": "vector"}, "linearprobe", class_num=3, global_pooling=False)(images)
