"""Every layout, written from its key table: recognised, converted to Paddle, and back bit for bit."""
import json
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from passl.weights import CheckpointError, convert, convert_file, read, recognise, to_passl_state
from passl.weights.formats.writers import write_paddle, write_torch
from tests.golden import formula
from tests.weights.checkpoints import (
    alexnet_shapes,
    filled,
    legacy_stream,
    preactivation_shapes,
    pretraining_shapes,
    renamed,
    resnet_shapes,
)
from tests.weights.library_layouts import CASES, MM, SINGLE, SOLO_RULE, TRUNK, V1, lightly, no_bias, swapped

REFERENCE = json.loads((Path(formula.__file__).parent / "reference_functions.json").read_text())


def written(path, state, legacy=True, **rest):
    tree = {"state_dict": state, **rest} if rest else state
    path.write_bytes(legacy_stream(tree)) if legacy else write_torch(str(path), tree)
    return path


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("legacy", [True, False], ids=["stream", "zip"])
def test_every_layout_means_the_same_weights(tmp_path, case, legacy):
    canonical, file_state, layout, kind = CASES[case]
    path = written(tmp_path / "weights.pth.tar", file_state or canonical, legacy)
    weights, found = recognise(read(path))
    assert (found.layout, found.kind, found.unknown) == (layout, kind, [])
    for name, array in canonical.items():
        stem, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            assert found.counters[stem] >= 1000, name
        elif not name.startswith("top_layer"):
            np.testing.assert_array_equal(weights[name], array, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_torch_to_paddle_to_torch_is_bit_identical(tmp_path, case):
    canonical, file_state, *_ = CASES[case]
    source = written(tmp_path / "in.pth.tar", file_state or canonical, epoch=12)
    convert_file(str(source), str(tmp_path / "mid.pdparams"))
    result = convert_file(str(tmp_path / "mid.pdparams"), str(tmp_path / "out.pth"), "torch")
    before, after = read(source).tensors, read(tmp_path / "out.pth").tensors
    assert list(after) == list(before)
    for name, array in before.items():
        assert (after[name].dtype, after[name].shape) == (array.dtype, array.shape), name
        assert after[name].tobytes() == array.tobytes(), name
    assert result.found.epoch == 12


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint16])
def test_dtypes_survive_the_round_trip(tmp_path, dtype):
    state = {name: (array.view(np.uint16)[..., ::2].copy() if dtype == np.uint16 and array.ndim == 1 else
                    array.astype(dtype)) for name, array in TRUNK.items() if not name.endswith("tracked")}
    source = written(tmp_path / "in.pth", state)
    convert_file(str(source), str(tmp_path / "mid.pdparams"))
    convert_file(str(tmp_path / "mid.pdparams"), str(tmp_path / "out.pth"), "torch")
    after = read(tmp_path / "out.pth").tensors
    for name, array in state.items():
        assert after[name].dtype == dtype and after[name].tobytes() == array.tobytes()


def test_paddle_names_layouts_and_shapes():
    """The 328 entries of the released ResNet-50 files become 274 names; Linear weights turn, BatchNorm is renamed."""
    shapes = {name: tuple(shape) for name, shape in REFERENCE["state_dict_resnet50"].items()}
    assert len(shapes) == 328
    checkpoint = read_memory({name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()})
    state, found = to_passl_state(checkpoint)
    assert len(state) == 274 and found.describe().splitlines()[2].endswith("resnet50, width x1, 2048 features")
    assert state["res_model.prototypes.weight"].shape == (128, 3000)
    assert state["res_model.projection_head.0.weight"].shape == (2048, 2048)
    assert state["res_model.projection_head.3.weight"].shape == (2048, 128)
    assert state["res_model.encoder.layer1.0.downsample.1._variance"].shape == (256,)
    assert "res_model.projection_head.1._mean" in state
    assert not any("running" in name or "tracked" in name for name in state)


def read_memory(tensors, **meta):
    from passl.weights import Checkpoint

    return Checkpoint("memory", "torch-zip", dict(tensors), meta)


@pytest.mark.parametrize("width, hidden, batch_norm",
                         [(1, 2048, True), (2, 8192, True), (4, 8192, True), (5, 10240, False)])
def test_widths_and_heads_of_the_releases_are_measured(width, hidden, batch_norm):
    shapes = pretraining_shapes((3000,), hidden, 128, batch_norm, blocks=(3, 4, 6, 3), channels=64 * width)
    weights, found = recognise(read_memory({n: np.broadcast_to(np.float32(0), s) for n, s in shapes.items()}))
    assert found.architecture == ("resnet50" if width == 1 else f"resnet50w{width}")
    assert (found.width, found.features) == (width, 2048 * width)
    assert (found.hidden, found.embedding, found.head_batch_norm, found.prototypes) == (hidden, 128, batch_norm, [3000])


def test_prefixes_go_as_prefixes_not_as_substrings():
    state = {f"module.{name}": array for name, array in TRUNK.items()}
    assert recognise(read_memory(state))[1].prefix == "module."
    mixed = {**TRUNK, "module.extra.weight": np.ones(2, np.float32)}
    with pytest.raises(CheckpointError, match="1 keys are not known.*module.extra.weight"):
        to_passl_state(read_memory(mixed))
    assert to_passl_state(read_memory(mixed), allow_unknown=True)[1].unknown == ["module.extra.weight"]
    inside = {f"model.module.{name}": array for name, array in TRUNK.items()}
    assert recognise(read_memory(inside))[1].prefix == "model.module."


def test_solo_weight_norm_is_multiplied_out():
    direction = np.array([[3.0, 4.0], [0.0, 2.0]], np.float32)
    state = {**renamed(TRUNK, SOLO_RULE), "prototypes.weight_v": direction,
             "prototypes.weight_g": np.array([[10.0], [1.0]], np.float32),
             "projector.0.weight": np.ones((4, 256), np.float32),
             "projector.0.bias": np.ones(4, np.float32), "queue": np.zeros(3, np.float32)}
    weights, found = recognise(read_memory(state))
    np.testing.assert_allclose(weights["prototypes.weight"], [[6, 8], [0, 1]], rtol=1e-6)
    assert found.ignored == ["queue"]


def test_lightly_head_without_bias_gets_zeros():
    weights, _ = recognise(read_memory(renamed(no_bias(SINGLE), lightly)))
    assert weights["projection_head.0.bias"].tolist() == [0.0] * 16


@pytest.mark.parametrize("to, suffix, example", [
    ("paddleclas", ".pdparams", {"stem.0.conv.weight", "stem.0.bn._mean", "blocks.3.conv2.bn._variance",
                                 "blocks.15.conv0.conv.weight", "blocks.7.short.bn.weight", "fc.weight"}),
    ("paddledet", ".pdparams", {"conv1.conv1.conv.weight", "conv1.conv1.norm._mean", "res2.res2a.short.conv.weight",
                                "res4.res4f.branch2c.norm._variance", "res5.res5c.branch2b.conv.weight"}),
    ("detectron2", ".pkl", {"stem.conv1.weight", "stem.conv1.norm.running_mean", "res2.0.shortcut.norm.running_var",
                            "res4.5.conv3.norm.bias", "res5.2.conv1.weight"}),
    ("torchvision", ".pth", {"conv1.weight", "bn1.num_batches_tracked", "layer4.2.bn3.running_var", "fc.bias"}),
    ("safetensors", ".safetensors", {"conv1.weight", "layer4.2.bn3.running_var", "linear.bias"})])
def test_other_libraries_and_back(tmp_path, to, suffix, example):
    shapes = {**resnet_shapes((3, 4, 6, 3), 64), "linear.weight": (4, 2048), "linear.bias": (4,)}
    state = {name: np.broadcast_to(np.float32(len(name)), shape) for name, shape in shapes.items()}
    for name in ("conv1.weight", "layer3.5.conv3.weight", "layer1.0.downsample.0.weight", "linear.weight"):
        state[name] = formula.weight(name, shapes[name])
    result = convert(read_memory(state), to)
    assert example <= set(result.state)
    assert bool(result.left_out) == (to in ("paddledet", "detectron2"))
    again, found = recognise(read_memory(result.state))
    assert found.architecture == "resnet50"
    for name in ("conv1.weight", "layer3.5.conv3.weight", "layer1.0.downsample.0.weight"):
        np.testing.assert_array_equal(again[name], state[name])
    if to == "paddleclas":
        np.testing.assert_array_equal(result.state["fc.weight"], state["linear.weight"].T)


def test_resnet101_letters_of_paddledetection():
    state = {name: np.broadcast_to(np.float32(0), shape) for name, shape in resnet_shapes((3, 4, 23, 3), 64).items()}
    names = set(convert(read_memory(state), "paddledet").state)
    assert {"res4.res4a.branch2a.conv.weight", "res4.res4b22.branch2c.norm.bias"} <= names
    assert {"res5.res5c.branch2a.norm._mean", "res3.res3d.branch2b.conv.weight"} <= names
    assert recognise(read_memory({n: np.broadcast_to(np.float32(0), (1,)) for n in names}))[1].layout == "paddledet"


@pytest.mark.parametrize("to", ["paddleclas", "paddledet"])
def test_networks_another_library_does_not_have_are_refused(to):
    for shapes in (resnet_shapes((2, 2, 2, 2), 64, bottleneck=False), resnet_shapes((3, 4, 6, 3), 128)):
        state = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
        with pytest.raises(CheckpointError, match="has no network for resnet"):
            convert(read_memory(state), to)


def test_part_trunk_drops_the_heads(tmp_path):
    state, _ = to_passl_state(read_memory(SINGLE), part="trunk")
    assert all(name.startswith("res_model.encoder.") for name in state)
    with pytest.raises(CheckpointError, match="has no trunk"):
        to_passl_state(read_memory({"linear.weight": np.ones((2, 2), np.float32)}), part="trunk")


def test_counters_default_to_zero_for_weights_born_in_paddle():
    state = {name: array for name, array in to_passl_state(read_memory(TRUNK))[0].items()}
    torch_state = convert(read_memory(state), "torch").state
    assert torch_state["bn1.num_batches_tracked"].dtype == np.int64 and torch_state["bn1.num_batches_tracked"] == 0


def test_conversion_refuses_to_overwrite_its_source_and_leaves_no_pieces(tmp_path):
    path = written(tmp_path / "w.pth", TRUNK)
    with pytest.raises(CheckpointError, match="is the source itself"):
        convert_file(str(path), str(path), "torch")
    write_torch(str(tmp_path / "bad.pth"), {"nothing.known": np.ones(1, np.float32)})
    with pytest.raises(CheckpointError, match="none of its 1 keys belongs to a known network"):
        convert_file(str(tmp_path / "bad.pth"), str(tmp_path / "out.pdparams"))
    assert sorted(os.listdir(tmp_path)) == ["bad.pth", "w.pth"]


def test_key_table_tells_what_became_of_each_key():
    table = convert(read_memory(renamed(SINGLE, str, "module.")), "paddle").table().splitlines()
    expected = ["module.prototypes.weight", "res_model.prototypes.weight", "6x5", "float32", "transposed"]
    assert any(line.split() == expected for line in table)
    assert any(line.split()[:2] == ["module.bn1.running_var", "res_model.encoder.bn1._variance"] for line in table)


def test_paddle_checkpoints_with_and_without_prefix_are_ours(tmp_path):
    state, _ = to_passl_state(read_memory(SINGLE))
    for strip in ("", "res_model.", "res_model.encoder."):
        part = {name[len(strip):]: array for name, array in state.items() if name.startswith(strip)}
        write_paddle(str(tmp_path / "m.pdparams"), part)
        weights, found = recognise(read(tmp_path / "m.pdparams"))
        np.testing.assert_array_equal(weights["layer4.0.bn3.running_var"], SINGLE["layer4.0.bn3.running_var"])
        if strip != "res_model.encoder.":
            np.testing.assert_array_equal(weights["prototypes.weight"], SINGLE["prototypes.weight"])


def inside_data_parallel(state):
    """SeLa wraps only `model.features` for several GPUs."""
    return OrderedDict((name.replace("features.", "features.module.", 1), array) for name, array in state.items())


ALEXNET, PREACTIVATION = filled(alexnet_shapes(heads=1)), filled(preactivation_shapes(heads=1))


@pytest.mark.parametrize("layout, state", [
    ("sela-alexnet", ALEXNET), ("sela-resnetv1", V1), ("sela-resnetv2", PREACTIVATION),
    ("sela-alexnet", inside_data_parallel(ALEXNET)), ("sela-resnetv1", inside_data_parallel(V1)),
    ("sela-resnetv2", inside_data_parallel(PREACTIVATION))])
@pytest.mark.parametrize("labels", ["labels", "L", None])
def test_sela_checkpoints_of_one_head_with_labels_and_of_several_gpus(tmp_path, layout, state, labels):
    """sela.md 1.7, 3.4 to 3.6: `top_layer` or `top_layer.0`, pseudo-labels beside the weights, features.module.*"""
    rest = {labels: np.zeros((1, 50), np.int64), "epoch": 3} if labels else {}
    source = written(tmp_path / "in.pth", state, **rest)
    weights, found = recognise(read(source))
    assert (found.layout, found.unknown, found.classes, found.epoch) == (layout, [], [7], 3 if labels else None)
    assert "top_layer0.weight" in weights and not any("module" in name for name in weights)
    convert_file(str(source), str(tmp_path / "mid.pdparams"))
    convert_file(str(tmp_path / "mid.pdparams"), str(tmp_path / "out.pth"), "torch")
    after = read(tmp_path / "out.pth").tensors
    assert list(after) == list(state)
    assert all(after[name].tobytes() == array.tobytes() for name, array in state.items())


def test_other_module_prefixes_inside_names_stay_unknown():
    state = {**ALEXNET, "features.module.module.0.weight": np.ones(1, np.float32), "classifier.module.1.weight":
             np.ones(1, np.float32)}
    assert len(recognise(read_memory(state))[1].unknown) == 2


def test_first_head_of_sela_becomes_the_classifier_of_torchvision():
    state = {**{name: array for name, array in V1.items() if "top_layer" not in name},
             **filled({f"top_layer{h}.{leaf}": shape for h in range(3) for leaf, shape in
                       (("weight", (7, 256)), ("bias", (7,)))})}
    result = convert(read_memory(state), "torchvision")
    assert result.state["fc.weight"] is state["top_layer0.weight"] and result.state["fc.bias"].shape == (7,)
    assert sorted(result.left_out) == [f"top_layer{h}.{leaf}" for h in (1, 2) for leaf in ("bias", "weight")]
    assert convert(read_memory(V1), "torchvision").state["fc.weight"] is V1["top_layer.0.weight"]


def test_neck_of_mmselfsup_is_a_duplicate_only_while_it_is_equal():
    state = OrderedDict((name.replace("neck.norm.", "neck.bn.").replace("head.loss_module.", "head."), array)
                        for name, array in MM.items())
    weights, found = recognise(read_memory(state))
    assert found.unknown == [] and found.names["neck.bn.weight"] == "projection_head.1.weight"
    assert set(found.names) == set(state) and "prototypes.weight" in weights
    for changed in ("neck.bn.weight", "neck.bn.running_var"):
        different = {**state, changed: np.full(16, 3, np.float32)}
        assert recognise(read_memory(different))[1].unknown == [changed]


def test_names_of_passl_1_1(tmp_path):
    """backbone.*, neck.projection_neck.* and head.prototypes in Paddle's layout."""
    rule = swapped(("projection_head.", "neck.projection_neck."), ("prototypes.", "head.prototypes."),
                   trunk="backbone.")
    ours = {name: array for name, array in SINGLE.items() if not name.endswith("tracked")}
    state = {rule(name).replace("running_mean", "_mean").replace("running_var", "_variance"):
             array.T if array.ndim == 2 else array for name, array in ours.items()}
    write_paddle(str(tmp_path / "epoch_100.pdparams"), {"state_dict": state, "epoch": 100})
    weights, found = recognise(read(tmp_path / "epoch_100.pdparams"))
    assert (found.kind, found.unknown, found.epoch) == ("SwAV pretraining", [], 100)
    for name, array in ours.items():
        np.testing.assert_array_equal(weights[name], array, err_msg=name)


def test_bfloat16_for_detectron2_is_widened(tmp_path):
    brain = {name: (array.view(np.uint32) >> 16).astype(np.uint16) if array.dtype == np.float32 else array
             for name, array in TRUNK.items()}
    convert_file(str(written(tmp_path / "b.pth", brain)), str(tmp_path / "b.pkl"), "detectron2")
    model = read(tmp_path / "b.pkl").tensors
    assert model["stem.conv1.weight"].dtype == np.float32
    np.testing.assert_allclose(model["stem.conv1.weight"], TRUNK["conv1.weight"], rtol=2 ** -7)


@pytest.mark.parametrize("key", [
    "projection_head.weird.stuff", "projection_head.4.weight", "prototypes.extra.foo", "prototypes.prototypes0.scale",
    "bn1.num_batches", "layer1.0.bn1.momentum", "bn.foo"])
def test_keys_that_only_look_like_ours_are_unknown(key):
    assert recognise(read_memory({**SINGLE, key: np.ones((3, 2), np.float32)}))[1].unknown == [key]


def without(state, *beginnings):
    return {name: array for name, array in state.items() if not name.startswith(beginnings)}


@pytest.mark.parametrize("state, architecture, lines", [
    (without(TRUNK, "conv1"), "", ["content         part of a trunk"]),
    (without(ALEXNET, "classifier"), "alexnet", ["architecture    alexnet, its last layer is missing"]),
    (without(ALEXNET, "classifier.4"), "alexnet", ["architecture    alexnet, its last layer is missing"]),
    (without(PREACTIVATION, "features.0"), "resnet50-preactivation", []),
    ({**TRUNK, "layer4.0.conv3.weight": np.float32(1)}, "bottleneck [1, 1, 1, 1]", ["its last layer is missing"]),
    ({"features.0.weight": ALEXNET["features.0.weight"]}, "", ["part of a trunk"])])
def test_incomplete_trunks_are_called_so(state, architecture, lines):
    state = {name: np.asarray(array) for name, array in state.items()}
    found = recognise(read_memory(state))[1]
    assert found.architecture == architecture
    for line in lines:
        assert line in found.describe()


@pytest.mark.parametrize("counter", [np.nan, np.inf, 1j, 2.0 ** 80, [1, 2], "2020"])
def test_impossible_counters_are_errors_that_name_file_and_key(counter):
    with pytest.raises(CheckpointError, match="memory: 'bn1.num_batches_tracked' is no counter"):
        recognise(read_memory({**TRUNK, "bn1.num_batches_tracked": np.array(counter)}))


@pytest.mark.parametrize("notes", [
    1, [], {"keys": []}, {"names": {1: "a"}}, {"names": [1]}, {"names": {"a": None}}, {"counters": {"bn1": "x"}},
    {"counters": {"bn1": 2 ** 70}}, {"counters": {"bn1": float("nan")}}, {"prefix": 3}, {"epoch": "soon"},
    {"epoch": 2 ** 90}, {"layout": []}])
@pytest.mark.parametrize("to", ["torch", "paddle"])
def test_damaged_notes_of_a_conversion_are_errors_that_name_the_file(tmp_path, notes, to):
    state, _ = to_passl_state(read_memory(TRUNK))
    write_paddle(str(tmp_path / "n.pdparams"), {**state, "passl.conversion": notes})
    with pytest.raises(CheckpointError, match="n.pdparams: the entry 'passl.conversion' is"):
        convert_file(str(tmp_path / "n.pdparams"), str(tmp_path / "out"), to)


def test_arrays_under_an_unknown_wrapper_are_pointed_at(tmp_path):
    write_torch(str(tmp_path / "t.pth"), {"teacher": TRUNK, "student": TRUNK, "epoch": 3})
    with pytest.raises(CheckpointError, match=rf"'teacher' \({len(TRUNK)}\), 'student' \({len(TRUNK)}\)"):
        recognise(read(tmp_path / "t.pth"))


def test_epoch_may_be_a_tensor(tmp_path):
    source = written(tmp_path / "e.pth", TRUNK, epoch=np.array(12))
    assert recognise(read(source))[1].epoch == 12


def test_two_classifiers_do_not_overwrite_each_other():
    state = {**TRUNK, **filled({"fc.weight": (10, 256), "linear.weight": (10, 256)})}
    for to in ("paddle", "torchvision"):
        with pytest.raises(CheckpointError, match="fc"):
            convert(read_memory(state), to)
    assert len(convert(read_memory(state), "safetensors").state) > len(TRUNK)


def test_written_files_get_the_permissions_of_the_umask(tmp_path):
    source, before = written(tmp_path / "w.pth", TRUNK), os.umask(0o027)
    try:
        convert_file(str(source), str(tmp_path / "w.pdparams"))
    finally:
        os.umask(before)
    assert (tmp_path / "w.pdparams").stat().st_mode & 0o777 == 0o640
    with pytest.raises(CheckpointError, match="is a folder"):
        convert_file(str(source), str(tmp_path), "paddle")
    assert sorted(os.listdir(tmp_path)) == ["w.pdparams", "w.pth"]


def test_a_round_trip_adds_nothing_that_the_source_did_not_have(tmp_path):
    """Neither the zero bias that lightly's head lacks nor counters that a file was saved without."""
    state = OrderedDict((name, array) for name, array in renamed(no_bias(SINGLE), lightly, "model.").items()
                        if "tracked" not in name)
    convert_file(str(written(tmp_path / "in.pth", state)), str(tmp_path / "mid.pdparams"))
    assert "res_model.projection_head.0.bias" in read(tmp_path / "mid.pdparams").tensors
    convert_file(str(tmp_path / "mid.pdparams"), str(tmp_path / "out.pth"), "torch")
    assert list(read(tmp_path / "out.pth").tensors) == list(state)


def test_a_round_trip_keeps_what_was_added_in_between(tmp_path):
    convert_file(str(written(tmp_path / "in.pth", renamed(TRUNK, str, "module."))), str(tmp_path / "mid.pdparams"))
    checkpoint = read(tmp_path / "mid.pdparams")
    checkpoint.tensors["res_model.prototypes.weight"] = np.ones((6, 5), np.float32)
    names = list(convert(checkpoint, "torch").state)
    assert names[:-1] == [f"module.{name}" for name in TRUNK] and names[-1] == "module.prototypes.weight"
