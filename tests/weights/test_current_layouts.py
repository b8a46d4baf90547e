"""Keys as the libraries write them today (their public sources), prefixes that nobody knows, whole models."""
import numpy as np
import paddle
import pytest

import passl
from passl.cli import assign, predict
from passl.cli import convert as convert_command
from passl.errors import CheckpointError
from passl.inference.verify import fixed_input, numpy_forward, paddle_forward, paddle_network
from passl.models.build import build_network
from passl.weights import UnsafeCheckpoint, load_into, read, recognise, to_passl_state
from passl.weights.formats.writers import write_torch
from tests.weights.checkpoints import filled, pretraining_shapes, renamed, resnet_shapes
from tests.weights.library_layouts import SOLO_RULE, no_bias, swapped

SWAV = filled(pretraining_shapes((5,), bottleneck=False, blocks=(2, 2, 2, 2)))
TRUNK = filled(resnet_shapes((2, 2, 2, 2), 8, bottleneck=False))
SMALL = filled(resnet_shapes((2, 2, 2, 2), 8, bottleneck=False, kernel=3))
CLASSIFIER = filled({"weight": (3, 64), "bias": (3,)})


def written(tmp_path, state, name="file.ckpt"):
    write_torch(str(tmp_path / name), state)
    return str(tmp_path / name)


def lightly_benchmark():
    """benchmarks/imagenet/resnet50/swav.py: torchvision's names, prototypes with bias, queues, an online classifier."""
    rule = swapped(("projection_head.", "projection_head.layers."), ("prototypes.weight", "prototypes.heads.0.weight"),
                   trunk="backbone.")
    state = renamed(no_bias(SWAV), rule)
    state["prototypes.heads.0.bias"] = np.linspace(-3, 3, 5, dtype=np.float32)
    return {**state, "online_classifier.classification_head.weight": np.ones((3, 64), np.float32),
            "online_classifier.classification_head.bias": np.ones(3, np.float32),
            "queues.0.bank": np.ones((6, 4), np.float32), "queues.0.bank_ptr": np.zeros(1, np.int64)}


def test_lightly_loads_head_and_prototypes_with_their_bias(tmp_path, capsys):
    file = written(tmp_path, lightly_benchmark())
    model = passl.get_model(file)
    assert model.card.has_prototypes and model.card.has_embedding and model.head_sizes == [5]
    found = recognise(read(file))[1]
    assert (found.layout, found.unknown, found.prototype_bias) == ("lightly", [], True)
    assert [key.split(".")[0] for key in found.ignored] == ["online_classifier"] * 2 + ["queues"] * 2
    images = fixed_input(64)
    expected = numpy_forward(*recognise(read(file)), images)
    scores = model.outputs(paddle.to_tensor(images))["scores"].numpy()
    # opening brings prototypes to unit length, so compare the network of the conversion, which keeps them
    ours = paddle_forward(paddle_network(*to_passl_state(file)), images)
    np.testing.assert_allclose(ours["scores"], expected["scores"], rtol=1e-4, atol=1e-4)
    bias = np.linspace(-3, 3, 5)
    assert np.abs(scores - bias).max() < 1.001 and np.abs(scores).max() > 1.5  # cosines and the bias
    out = str(tmp_path / "out.pdparams")
    assert convert_command.main([file, out, "--verify"]) == 0
    assert "left out        online_classifier" in capsys.readouterr().out
    back = str(tmp_path / "back.pth")
    assert convert_command.main([out, back, "--to", "torch"]) == 0
    source, again = read(file).tensors, read(back).tensors
    assert list(again) == [key for key in source if key not in found.ignored]
    for key, array in again.items():
        np.testing.assert_array_equal(array, source[key])


def test_assign_takes_a_lightly_checkpoint(tmp_path):
    import PIL.Image

    PIL.Image.fromarray(np.arange(32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)).save(tmp_path / "a.png")
    file = written(tmp_path, lightly_benchmark())
    assert assign.main([file, str(tmp_path / "a.png"), "--output", str(tmp_path / "c.csv"), "--size", "32"]) == 0


def lightly_generator(name):
    """ResNetGenerator of its CIFAR-10 benchmarks, in a Sequential: shortcuts, and no max-pool among the children."""
    if name.startswith("layer"):
        return f"backbone.{int(name[5]) + 1}{name[6:].replace('downsample', 'shortcut')}"
    return {"conv1": "backbone.0", "bn1": "backbone.1"}[name.split(".")[0]] + name[name.index("."):]


NORM = filled({leaf: (64,) for leaf in ("weight", "bias", "running_mean", "running_var")})
VISSL_EVALUATION = {**renamed(TRUNK, str, "trunk.base_model._feature_blocks."),
                    **renamed(NORM, str, "heads.0.channel_bn."), **renamed(CLASSIFIER, str, "heads.0.clf.clf.0.")}
SOLO_CLUSTER = {**{name: array for name, array in renamed(SWAV, SOLO_RULE).items() if "prototypes" not in name},
                "prototypes.0.weight": np.ones((5, 6), np.float32), "prototypes.1.weight": np.ones((7, 6), np.float32),
                "local_memory_index": np.zeros(4, np.int64), **renamed(CLASSIFIER, str, "classifier.")}
# name: (state, layout, kind, stem, prototypes, classes)
CASES = {
    "lightly ResNetGenerator": (renamed(SMALL, lightly_generator), "lightly-cifar", "trunk", "small", [], []),
    "lightly linear evaluation": ({**renamed(TRUNK, str, "model.backbone."),
                                   **renamed(CLASSIFIER, str, "classification_head.")}, "lightly", "classifier",
                                  "imagenet", [], [3]),
    "solo-learn linear evaluation": ({**renamed(SMALL, str, "backbone."), **renamed(CLASSIFIER, str, "classifier.")},
                                     "solo", "classifier", "small_padded", [], [3]),
    "solo-learn DeepCluster-v2": (SOLO_CLUSTER, "solo", "DeepCluster-v2 or SeLa-v2 pretraining (2 prototype heads)",
                                  "imagenet", [5, 7], []),
    "VISSL linear evaluation": (VISSL_EVALUATION, "vissl", "classifier", "imagenet", [], [3]),
    "mmpretrain classifier": ({**renamed(TRUNK, str, "backbone."), **renamed(CLASSIFIER, str, "head.fc.")},
                              "mmpretrain", "classifier", "imagenet", [], [3]),
}


@pytest.mark.parametrize("case", CASES)
def test_every_layout_opens_with_what_it_holds(tmp_path, case):
    state, layout, kind, stem, prototypes, classes = CASES[case]
    file = written(tmp_path, state)
    found = recognise(read(file))[1]
    assert (found.layout, found.kind, found.stem, found.stem_known) == (layout, kind, stem, True)
    assert (found.unknown, found.misfits, found.prototypes, found.classes) == ([], [], prototypes, classes)
    model = passl.get_model(file)
    assert model.card.has_classifier == bool(classes) and model.card.has_prototypes == bool(prototypes)
    converted = str(tmp_path / "converted.pdparams")
    assert convert_command.main([file, converted]) == 0
    again = passl.get_model(converted)
    images = paddle.to_tensor(fixed_input(32))
    with paddle.no_grad():
        ours, theirs = model.outputs(images), again.outputs(images)
    assert list(ours) == list(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name].numpy(), theirs[name].numpy())


def test_keys_of_several_libraries_do_not_tell_the_stem(tmp_path):
    found = recognise(read(written(tmp_path, renamed(SMALL, str, "backbone."))))[1]
    assert found.stem == "small" and not found.stem_known


def test_a_classifier_file_predicts_as_its_conversion(tmp_path, capsys):
    import PIL.Image

    PIL.Image.fromarray(np.arange(32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)).save(tmp_path / "a.png")
    file, out = written(tmp_path, {**TRUNK, **renamed(CLASSIFIER, str, "fc.")}), str(tmp_path / "out.pdparams")
    assert convert_command.main([file, out]) == 0
    capsys.readouterr()
    lines = []
    for model in (file, out):
        assert predict.main([model, str(tmp_path / "a.png"), "--size", "32", "--workers", "0"]) == 0
        lines.append(capsys.readouterr().out.splitlines()[-1])
    assert lines[0] == lines[1] and "%" in lines[0]
    named = passl.get_model("swav_resnet18_linearprobe", pretrained=file, base_channels=8, class_num=3)
    assert named.card.has_classifier


PREFIXES = {
    "net.": {"loss.weight": np.ones((2, 2), np.float32)},
    "encoder_q.": {**renamed(TRUNK, lambda name: f"encoder_k.{name}"), "queue": np.ones((4, 4), np.float32)},
    "module.": {"n_averaged": np.zeros((), np.int64)},
    "model.": {"criterion.centre": np.ones((1, 4), np.float32)},
    "online.network.": {"target.x": np.ones(1, np.float32)},
}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_prefix_of_a_known_trunk_is_found_and_said(tmp_path, prefix, capsys):
    state = {**renamed(TRUNK, str, prefix), **PREFIXES[prefix]}
    file = written(tmp_path, state)
    network = build_network({"type": "resnet18", "base_channels": 8})
    report = load_into(network, file)
    assert not report.missing and f"under '{prefix}'" in report.table()
    assert set(report.ignored) == set(PREFIXES[prefix])
    np.testing.assert_array_equal(network.trunk.conv1.weight.numpy(), TRUNK["conv1.weight"])
    np.testing.assert_array_equal(passl.get_model(file).trunk.conv1.weight.numpy(), TRUNK["conv1.weight"])
    assert convert_command.main([file]) == 0
    assert f"'{prefix}': the trunk lies under it" in capsys.readouterr().out
    assert convert_command.main([file, str(tmp_path / "out.pdparams"), "--prefix", prefix, "--verify"]) == 0


def test_the_user_names_another_prefix(tmp_path, capsys):
    momentum = {name: array + np.ones((), array.dtype) for name, array in TRUNK.items()}
    file = written(tmp_path, {**renamed(TRUNK, str, "encoder_q."), **renamed(momentum, str, "encoder_k.")})
    for prefix in ("encoder_k", "encoder_k."):
        network = build_network({"type": "resnet18", "base_channels": 8})
        load_into(network, file, prefix=prefix)
        np.testing.assert_array_equal(network.trunk.conv1.weight.numpy(), momentum["conv1.weight"])
        np.testing.assert_array_equal(passl.get_model(file, prefix=prefix).trunk.conv1.weight.numpy(),
                                      momentum["conv1.weight"])
    with pytest.raises(CheckpointError, match="no key begins with 'teacher.'.*lies under 'encoder_q.'"):
        passl.get_model(file, prefix="teacher")


def test_blocks_of_other_networks_are_no_trunk(tmp_path):
    dense = {f"features.denseblock1.denselayer{layer}.conv1.weight": np.ones((4, 4, 1, 1), np.float32)
             for layer in range(4)}
    with pytest.raises(CheckpointError, match="none of its 4 keys belongs to a known network"):
        passl.get_model(written(tmp_path, dense))


@pytest.mark.parametrize("name", ["torch.nn.modules.conv\nConv2d", "torchvision.models.resnet\nResNet"])
def test_a_whole_model_is_told_from_its_weights(tmp_path, name):
    (tmp_path / "model.pdparams").write_bytes(b"\x80\x02}X\x01\x00\x00\x00ac" + name.encode() + b"\n)Rs.")
    with pytest.raises(UnsafeCheckpoint, match=r"whole model.*save model.state_dict\(\)") as error:
        read(tmp_path / "model.pdparams")
    assert "--inert" not in str(error.value)
