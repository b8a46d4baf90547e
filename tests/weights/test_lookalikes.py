"""Networks that only look like a ResNet are refused, wherever their weights would be used; heads may differ."""
import numpy as np
import pytest

import passl
from passl.cli import convert as convert_command
from passl.cli import embed
from passl.models.build import build_network
from passl.weights import Checkpoint, CheckpointError, load_into, recognise, to_passl_state
from passl.weights.formats.writers import write_paddle, write_torch
from passl.weights.layouts.keymaps import paddleclas_name
from passl.weights.layouts.trunk import inside_trunk
from tests.weights.checkpoints import filled, renamed, resnet_shapes

BASIC = filled(resnet_shapes((2, 2, 2, 2), 8, bottleneck=False))
DEEP = filled(resnet_shapes((3, 4, 6, 3), 8))


def wide(shapes):
    """torchvision's wide_resnet50_2: the inner convolutions have twice the channels."""
    def twice(name, shape):
        inner = ".conv1." in name or ".bn1." in name or ".conv2." in name or ".bn2." in name
        shape = tuple(shape)
        if not name.startswith("layer") or not shape:
            return shape
        if inner:
            return (2 * shape[0],) + ((2 * shape[1],) + shape[2:] if ".conv2." in name else shape[1:])
        return (shape[0], 2 * shape[1]) + shape[2:] if ".conv3." in name else shape
    return {name: twice(name, shape) for name, shape in shapes.items()}


def grouped(shapes):
    """ResNeXt: the 3x3 convolutions are grouped."""
    return {name: (shape[0], max(1, shape[1] // 4)) + tuple(shape[2:]) if ".conv2.weight" in name else shape
            for name, shape in shapes.items()}


def added(state, shapes):
    return {**state, **filled(shapes)}


# name: (state under the names of torchvision, what the message names)
CASES = {
    "squeeze and excitation": (added(BASIC, {"layer1.0.se.fc1.weight": (2, 8, 1, 1)}),
                               r"layer1.0.se.fc1.weight \[2, 8, 1, 1\]"),
    "bias of the first convolution": (added(BASIC, {"conv1.bias": (8,)}), r"conv1.bias \[8\]"),
    "bias inside a block": (added(BASIC, {"layer2.1.conv2.bias": (16,)}), "layer2.1.conv2.bias"),
    "scale of a block": (added(BASIC, {"layer3.1.scale": (1,)}), "layer3.1.scale"),
    "a fourth convolution": (added(DEEP, {"layer1.0.conv4.weight": (8, 8, 1, 1)}), "layer1.0.conv4.weight"),
    "deep stem": (added(DEEP, {"conv2.weight": (8, 8, 3, 3)}), "conv2.weight"),
    "a fifth stage": (added(DEEP, {"layer5.0.conv1.weight": (8, 8, 1, 1)}), "layer5.0.conv1.weight"),
    "attention pooling": (added(DEEP, {"attnpool.c_proj.weight": (8, 256)}), "attnpool.c_proj.weight"),
    "wide": (filled(wide(resnet_shapes((3, 4, 6, 3), 8))),
             r"layer1.0.conv1.weight \[16, 8, 1, 1\]: a resnet50 has \[8, 8, 1, 1\]"),
    "grouped": (filled(grouped(resnet_shapes((3, 4, 6, 3), 8))),
                r"layer1.0.conv2.weight \[8, 2, 3, 3\]: a resnet50 has \[8, 8, 3, 3\]"),
    "shortcut where none is": (added(BASIC, {"layer1.0.downsample.0.weight": (8, 8, 1, 1)}),
                               "layer1.0.downsample.0.weight"),
    "first convolution of 5x5": (filled(resnet_shapes((2, 2, 2, 2), 8, False, kernel=5)), "7x7 or 3x3"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_a_network_of_other_layers_is_refused_everywhere(tmp_path, capsys, case, prefix):
    state, message = CASES[case]
    file = str(tmp_path / "other.pth")
    write_torch(file, {prefix + name: array for name, array in state.items()})
    with pytest.raises(CheckpointError, match=message):
        to_passl_state(file, allow_unknown=True)
    network = build_network({"type": "resnet18" if "layer1.0.conv3.weight" not in state else "resnet50",
                             "base_channels": 8})
    with pytest.raises(CheckpointError, match=message):
        load_into(network, file)
    with pytest.raises(CheckpointError, match=message):
        passl.get_model(file)
    assert convert_command.main([file, str(tmp_path / "out.pdparams"), "--allow-unknown"]) == 1
    assert not (tmp_path / "out.pdparams").exists()
    assert convert_command.main([file]) == 0  # what it is can be looked at
    assert "does not fit" in capsys.readouterr().out


def test_commands_refuse_with_the_key(tmp_path, capsys):
    write_torch(str(tmp_path / "se.pth"), CASES["squeeze and excitation"][0])
    assert embed.main([str(tmp_path / "se.pth"), str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert "layer1.0.se.fc1.weight [2, 8, 1, 1]: a resnet18 has no such weight" in capsys.readouterr().err


@pytest.mark.parametrize("prefix", ["", "res_model."])
def test_an_own_file_of_another_trunk_is_refused(tmp_path, prefix):
    """Own files are loaded by name: extra layers, and a deeper network, would be left out."""
    small = build_network({"type": "resnet18", "base_channels": 8})
    own = {f"{prefix}{name}": tensor.numpy() for name, tensor in small.state_dict().items()}
    deeper = {f"{prefix}{name}": tensor.numpy() for name, tensor in
              build_network({"type": "resnet34", "base_channels": 8}).state_dict().items()}
    before = small.trunk.conv1.weight.numpy()
    extra = np.ones((2, 8), np.float32)
    for state, stray in (({**own, f"{prefix}encoder.layer1.0.se.weight": extra}, "layer1.0.se.weight"),
                         ({**own, f"{prefix}encoder.patch.weight": extra}, "encoder.patch.weight"),
                         (deeper, "layer1.2.conv1.weight")):
        write_paddle(str(tmp_path / "own.pdparams"), state)
        for source in (str(tmp_path / "own.pdparams"), state):
            with pytest.raises(CheckpointError, match=rf"{stray} \[.*the model has no such weight"):
                load_into(small, source)
    np.testing.assert_array_equal(small.trunk.conv1.weight.numpy(), before)
    assert load_into(small, state, strict="none").loaded


def test_shortcuts_of_paddleclas_and_its_deep_stem_are_other_networks():
    basic = added(BASIC, {"layer1.0.downsample.0.weight": (8, 8, 1, 1)})
    basic = {paddleclas_name(name, (2, 2, 2, 2)): array for name, array in basic.items() if "tracked" not in name}
    found = recognise(Checkpoint("ResNet18.pdparams", "paddle", basic))[1]
    assert found.layout == "paddleclas" and "layer1.0.downsample.0.weight" in found.misfits[0]
    deep = {paddleclas_name(name, (3, 4, 6, 3)): array for name, array in DEEP.items() if "tracked" not in name}
    assert not recognise(Checkpoint("ResNet50.pdparams", "paddle", deep))[1].misfits
    deep["stem.1.conv.weight"] = np.ones((8, 8, 3, 3), np.float32)
    assert "stem.1.conv.weight" in recognise(Checkpoint("ResNet50_vd.pdparams", "paddle", deep))[1].misfits[0]


@pytest.mark.parametrize("key", ["predictor.0.weight", "momentum_encoder.conv1.weight", "my_head.weight", "fc2.weight",
                                 "backbone.fc.weight", "backbone.head.0.weight"])
def test_what_lies_beside_the_trunk_is_left_out_and_listed(tmp_path, key):
    prefix = "backbone." if key.startswith("backbone") else ""
    state = renamed(BASIC, str, prefix)
    state[key] = np.ones((3, 2), np.float32)
    file = str(tmp_path / "file.pth")
    write_torch(file, state)
    report = load_into(build_network({"type": "resnet18", "base_channels": 8}), file)
    named_by_us = {"backbone.fc.weight": "linear.linear.weight"}  # a known classifier goes by our name
    assert report.ignored == [named_by_us.get(key, key)] and not report.missing
    assert passl.get_model(file).card.source == file


def test_the_buffers_of_a_profiler_are_no_layers(tmp_path):
    state = {**BASIC, "conv1.total_ops": np.ones(1, np.float32), "layer1.0.conv1.total_params": np.ones(1, np.float32)}
    write_torch(str(tmp_path / "file.pth"), state)
    assert len(load_into(build_network({"type": "resnet18", "base_channels": 8}), tmp_path / "file.pth").ignored) == 2


def test_every_network_that_is_built_fits_its_own_shapes():
    for name in ("resnet10", "resnet18", "resnet26", "resnet34", "resnet50", "resnet50w2", "resnet101"):
        network = build_network({"type": name, "base_channels": 8})
        state = {f"res_model.{key}": tensor.numpy() for key, tensor in network.state_dict().items()}
        found = recognise(Checkpoint("own.pdparams", "paddle", state))[1]
        assert not found.misfits and not found.unknown


def test_where_a_trunk_ends():
    trunk = ["net.conv1.weight", "net.layer1.0.conv1.weight"]
    names = ["net.layer1.0.x", "net.fc.weight", "net.projector.0.weight", "head.weight", "net.gate", "conv2.weight"]
    assert inside_trunk(names, trunk) == ["net.layer1.0.x", "net.gate"]
    assert inside_trunk(["queue", "conv2.weight", "fc.bias", "layer5.x"], ["conv1.weight", "layer1.0.bn1.bias"]) == [
        "conv2.weight", "layer5.x"]
    assert inside_trunk(["a.b"], []) == []
