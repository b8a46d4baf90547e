import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from passl.inference.verify import fixed_input, largest_differences, numpy_forward, paddle_forward, paddle_network
from passl.models.heads import HeadOptions
from passl.models.networks import PretrainNetwork
from passl.models.resnet import BasicBlock, Bottleneck, ResNet
from passl.weights import Checkpoint, CheckpointError, load_into, read, to_passl_state
from tests.golden import formula
from tests.weights.checkpoints import filled, legacy_stream, pretraining_shapes, resnet_shapes

HERE = Path(formula.__file__).parent
STATE = filled(pretraining_shapes((5,)))


def memory(state):
    return Checkpoint("memory.pth", "torch-zip", dict(state))


def pretraining_model(prototypes=5, hidden=16):
    options = HeadOptions(normalize=True, hidden_mlp=hidden, output_dim=6, nmb_prototypes=prototypes)
    return PretrainNetwork(trunk(), options)


def trunk(channels=8):
    return ResNet(Bottleneck, [1, 1, 1, 1], base_channels=channels)


def test_released_layout_fills_model_network_and_trunk_alike():
    for layer, place in ((pretraining_model(), "res_model.encoder."), (pretraining_model().res_model, "encoder."),
                         (trunk(), "")):
        report = load_into(layer, memory({f"module.{name}": array for name, array in STATE.items()}))
        state = layer.state_dict()
        assert sorted(report.loaded) == sorted(state) and not report.missing and not report.wrong_shape
        variance = state[place + "layer4.0.bn3._variance"].numpy()
        np.testing.assert_array_equal(variance, STATE["layer4.0.bn3.running_var"])
        if place:
            prototypes = state[place.replace("encoder.", "prototypes.") + "weight"].numpy()
            np.testing.assert_array_equal(prototypes, STATE["prototypes.weight"].T)
        else:
            assert set(report.ignored) == {name for name in to_passl_state(memory(STATE))[0] if "encoder" not in name}


def test_another_number_of_prototypes_keeps_the_new_layer():
    model = pretraining_model(prototypes=9)
    fresh = model.res_model.prototypes.weight.numpy().copy()
    report = load_into(model, memory(STATE))
    assert report.wrong_shape == [("res_model.prototypes.weight", (6, 5), (6, 9))]
    np.testing.assert_array_equal(model.res_model.prototypes.weight.numpy(), fresh)
    np.testing.assert_array_equal(model.res_model.encoder.conv1.weight.numpy(), STATE["conv1.weight"])
    assert "file [6, 5], model [6, 9]" in report.table()
    with pytest.raises(CheckpointError, match="1 weights are missing or of another shape"):
        load_into(pretraining_model(prototypes=9), memory(STATE), strict="all")


def test_trunk_only_file_reports_missing_heads_by_group():
    report = load_into(pretraining_model(), memory(filled(resnet_shapes())))
    assert {name.split(".")[1] for name in report.missing} == {"projection_head", "prototypes"}
    lines = [line.split() for line in report.table().splitlines()]
    assert ["missing", "in", "the", "file", "8", "projection_head"] in lines


@pytest.mark.parametrize("layer, message", [
    (lambda: trunk(16), "nothing of the trunk matches"),
    (lambda: ResNet(Bottleneck, [2, 1, 1, 1], base_channels=8), "15 trunk weights are missing"),
    (lambda: ResNet(BasicBlock, [1, 1, 1, 1], base_channels=8), "trunk weights are missing or of another shape"),
    (lambda: paddle.nn.Linear(3, 4), "nothing of the model matches")])
def test_wrong_network_is_an_error_and_stays_untouched(layer, message):
    layer = layer()
    before = {name: tensor.numpy().copy() for name, tensor in layer.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as error:
        load_into(layer, memory(STATE))
    assert "weights from memory.pth" in str(error.value)
    for name, tensor in layer.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])


def test_dtypes_are_cast_to_the_layers():
    half = {name: array.astype(np.float16) if array.dtype == np.float32 else array for name, array in STATE.items()}
    layer = trunk()
    load_into(layer, memory(half))
    assert layer.conv1.weight.dtype == paddle.float32
    np.testing.assert_array_equal(layer.conv1.weight.numpy(), half["conv1.weight"].astype(np.float32))
    brain = {name: (array.view(np.uint32) >> 16).astype(np.uint16) if array.dtype == np.float32 else array
             for name, array in STATE.items()}
    load_into(layer, memory(brain))
    np.testing.assert_allclose(layer.conv1.weight.numpy(), STATE["conv1.weight"], rtol=2 ** -7)


def test_plain_state_and_unknown_strictness():
    state, _ = to_passl_state(memory(STATE))
    assert len(load_into(trunk(), state).loaded) == len(trunk().state_dict())
    loaded = load_into(pretraining_model(), state, part="trunk").loaded
    assert loaded and all(name.startswith("res_model.encoder.") for name in loaded)
    for source in (state, memory(STATE)):  # what `part` left out is accounted for
        report = load_into(trunk(), source, part="trunk")
        assert {name.removeprefix("res_model.").split(".")[0] for name in report.ignored} == {"projection_head",
                                                                                              "prototypes"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value):
    broken = dict(STATE)
    broken["layer1.0.conv1.weight"] = np.full_like(STATE["layer1.0.conv1.weight"], value)
    layer = trunk()
    before = layer.conv1.weight.numpy().copy()
    with pytest.raises(CheckpointError, match="1 of .* weights hold NaN .*, the first is layer1.0.conv1.weight"):
        load_into(layer, memory(broken))
    np.testing.assert_array_equal(layer.conv1.weight.numpy(), before)


def test_plain_state_needs_known_choices():
    state, _ = to_passl_state(memory(STATE))
    with pytest.raises(ValueError, match="part must be one of"):
        load_into(trunk(), state, part="head")
    with pytest.raises(ValueError, match="strict must be one of"):
        load_into(trunk(), state, strict="yes")


@pytest.mark.parametrize("options", [
    {}, {"prototypes": (4, 5)}, {"hidden": 0}, {"batch_norm": False}, {"kernel": 3},
    {"bottleneck": False, "blocks": (2, 2, 2, 2)}, {"blocks": (3, 4, 6, 3)}])
def test_numpy_and_paddle_agree(options):
    prototypes = options.pop("prototypes", (5,))
    checkpoint = memory(filled(pretraining_shapes(prototypes, **options)))
    state, found = to_passl_state(checkpoint)
    from passl.weights import recognise
    images = fixed_input(32)
    reference = numpy_forward(*recognise(checkpoint), images)
    assert reference["scores"].shape == (2, sum(prototypes))
    outputs = paddle_forward(paddle_network(state, found), images)
    assert max(largest_differences(outputs, reference).values()) < 2e-5


def test_verification_sees_one_wrong_weight():
    state, found = to_passl_state(memory(STATE))
    state["res_model.projection_head.0.weight"] = state["res_model.projection_head.0.weight"] * 1.01
    from passl.weights import recognise
    reference = numpy_forward(*recognise(memory(STATE)), fixed_input(32))
    outputs = paddle_forward(paddle_network(state, found), fixed_input(32))
    differences = largest_differences(outputs, reference)
    assert differences["features"] < 1e-5 and differences["scores"] > 1e-4


def test_the_numpy_forward_holds_one_wide_layer_at_a_time():
    """float64 copies of all weights at once would be three times the model."""
    import tracemalloc

    from passl.weights import recognise
    canonical, found = recognise(memory(filled(pretraining_shapes(channels=32, hidden=512))))
    size = sum(array.nbytes for array in canonical.values())
    tracemalloc.start()
    try:
        numpy_forward(canonical, found, fixed_input(32))
        assert tracemalloc.get_traced_memory()[1] < 1.5 * size
    finally:
        tracemalloc.stop()


def test_full_resnet50_through_a_released_style_file_equals_the_reference(tmp_path):
    """forward_resnet50_s0.json, after .pth.tar (legacy stream, module. prefix) -> reader -> PASSL names -> Paddle."""
    shapes = json.loads((HERE / "reference_functions.json").read_text())["state_dict_resnet50"]
    golden = json.loads((HERE / "forward_resnet50_s0.json").read_text())
    shapes["prototypes.weight"] = [golden["K"], 128]
    path = tmp_path / "swav.pth.tar"
    path.write_bytes(legacy_stream({f"module.{name}": formula.weight(name, shape) for name, shape in shapes.items()}))
    state, found = to_passl_state(read(path))
    network = paddle_network(state, found)
    rows = {"features": [], "embedding": [], "scores": []}
    crops = formula.crops(0, 0, golden["bs"], golden["crops"], golden["seed"])
    for images in (np.concatenate(crops[:2]), np.concatenate(crops[2:])):  # 96 pixels, 64 pixels
        for name, array in paddle_forward(network, images).items():
            rows[name].append(array)
    np.testing.assert_allclose(np.concatenate(rows["embedding"]), golden["embedding"], atol=1e-4)
    np.testing.assert_allclose(np.concatenate(rows["scores"])[:, :20], golden["scores_first20"], atol=1e-4)
    np.testing.assert_allclose(rows["features"][0][:2, :32], golden["trunk_first32_crop0"], rtol=1e-4, atol=1e-3)
