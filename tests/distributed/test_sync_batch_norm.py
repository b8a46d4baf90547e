"""Synchronised batch norm equals plain batch norm on the joined batch: outputs, gradients, running statistics."""
from __future__ import annotations

import numpy
import paddle
import pytest
from paddle import nn

from passl import distributed
from passl.distributed.sync_batch_norm import _JointNormalise, combine_moments, convert_batch_norm, group_size
from tests.distributed.ranks import run_ranks
from tests.machines.rounding import neighbours

ROWS = [3, 5, 2]  # unequal on purpose


def joined_batch(kind, dtype, ranks):
    random = numpy.random.RandomState(5)
    shape = [sum(ROWS[:ranks]), 4] + ([] if kind == "1d" else [3, 2])
    # Far from zero: a variance from plain sums of squares would lose half of its digits here.
    inputs = (random.standard_normal(shape) * 2 + 50).astype(dtype)
    return inputs, random.standard_normal(shape).astype(dtype)


def build(kind, dtype, data_format="NCHW"):
    paddle.set_default_dtype(dtype)
    if kind == "1d":
        layer = nn.BatchNorm1D(4, momentum=0.8)
    else:
        layer = nn.BatchNorm2D(4, momentum=0.8, epsilon=1e-3, data_format=data_format)
    layer.weight.set_value(numpy.array([1.0, -2.0, 0.5, 3.0], dtype))
    layer.bias.set_value(numpy.array([0.0, 1.0, -1.0, 2.0], dtype))
    return nn.Sequential(layer)


def measure(model, inputs, gradient):
    """Two training steps (the running statistics move twice), then evaluation; everything they produce."""
    inputs = paddle.to_tensor(inputs, stop_gradient=False)
    for _ in range(2):
        model.clear_gradients()
        inputs.clear_gradient()
        outputs = model(inputs)
        (outputs * paddle.to_tensor(gradient)).sum().backward()
    layer = model[0]
    result = {
        "outputs": outputs.numpy(),
        "input gradient": inputs.grad.numpy(),
        "weight gradient": layer.weight.grad.numpy(),
        "bias gradient": layer.bias.grad.numpy(),
        "mean": layer._mean.numpy(),
        "variance": layer._variance.numpy(),
    }
    model.eval()
    result["evaluation"] = model(inputs).numpy()
    return result


def own_rows(first, mode, rank):
    """The rows of `rank` when groups start at rank `first`."""
    offset = sum(ROWS[first:rank])
    return slice(offset, offset + ROWS[rank])


def measure_on_ranks(dtype):
    rank, ranks = distributed.rank(), distributed.world_size()
    result = {}
    for kind in ("1d", "2d", "nhwc"):
        model = build("1d" if kind == "1d" else "2d", dtype, "NHWC" if kind == "nhwc" else "NCHW")
        before = {name: id(value) for name, value in model.state_dict().items()}
        convert_batch_norm(model, "global")
        assert {name: id(value) for name, value in model.state_dict().items()} == before
        inputs, gradient = joined_batch(kind, dtype, ranks)
        if kind == "nhwc":
            inputs, gradient = (numpy.moveaxis(array, 1, 3).copy() for array in (inputs, gradient))
        rows = own_rows(0, kind, rank)
        with distributed.collective_counter() as count:
            measured = measure(model, inputs[rows], gradient[rows])
        assert [name for name, _ in count.calls] == ["all_gather", "all_reduce"] * 2, count.calls
        result.update({f"{kind} {name}": value for name, value in measured.items()})
    return result


def allowed(kind, dtype, ranks, expected):
    """{quantity: how far it may be off}: in float32 four times what a rounding of the inputs does to plain batch norm.

    Inputs near 50 are rounded by 4e-6, of deviations near 2.
    """
    if dtype == "float64":
        return {name: 1e-10 * max(1, abs(value).max()) for name, value in expected.items()}
    inputs, gradient = joined_batch(kind, dtype, ranks)
    moved = [measure(build("1d" if kind == "1d" else "2d", dtype), neighbours(inputs, draw),
                     neighbours(gradient, 8 + draw)) for draw in range(8)]
    return {name: 4 * max(abs(one[name] - value).max() for one in moved) for name, value in expected.items()}


@pytest.mark.dist
@pytest.mark.parametrize("ranks, dtype", [(2, "float64"), (3, "float64"), (2, "float32")])
def test_equals_plain_batch_norm_on_the_joined_batch(tmp_path, ranks, dtype):
    runs = run_ranks(measure_on_ranks, ranks, tmp_path, dtype=dtype)
    try:
        for kind in ("1d", "2d", "nhwc"):
            expected = measure(build("1d" if kind == "1d" else "2d", dtype), *joined_batch(kind, dtype, ranks))
            bounds = allowed(kind, dtype, ranks, expected)
            if kind == "nhwc":
                expected = {k: numpy.moveaxis(v, 1, 3) if v.ndim == 4 else v for k, v in expected.items()}
            for name in ("outputs", "input gradient", "evaluation"):
                joined = numpy.concatenate([run.result[f"{kind} {name}"] for run in runs])
                numpy.testing.assert_allclose(joined, expected[name], 0, bounds[name], err_msg=f"{kind} {name}")
            for name in ("weight gradient", "bias gradient"):
                total = sum(run.result[f"{kind} {name}"] for run in runs)
                numpy.testing.assert_allclose(total, expected[name], 0, bounds[name], err_msg=f"{kind} {name}")
            for run in runs:
                for name in ("mean", "variance"):
                    actual = run.result[f"{kind} {name}"]
                    numpy.testing.assert_allclose(actual, expected[name], 0, bounds[name], err_msg=name)
    finally:
        paddle.set_default_dtype("float32")


@pytest.mark.parametrize("layout", ["NCL", "NLC"])
def test_sequences_of_both_layouts_equal_plain_batch_norm(layout):
    random = numpy.random.RandomState(3)
    values, weight, bias, slope = (random.standard_normal(shape) for shape in ([5, 4, 4], [4], [4], [5, 4, 4]))
    results = []
    for joint in (True, False):
        inputs, scale, shift = (paddle.to_tensor(array, stop_gradient=False) for array in (values, weight, bias))
        if joint:
            outputs = _JointNormalise.apply(inputs, scale, shift, 1e-5, layout == "NLC", None)[0]
        else:
            running = paddle.zeros([4], "float64"), paddle.ones([4], "float64")
            outputs = nn.functional.batch_norm(inputs, *running, scale, shift, training=True, data_format=layout)
        (outputs * paddle.to_tensor(slope)).sum().backward()
        results.append([tensor.numpy() for tensor in (outputs, inputs.grad, scale.grad, shift.grad)])
    for ours, plain in zip(*results):
        numpy.testing.assert_allclose(ours, plain, rtol=1e-8, atol=1e-9)


def measure_in_groups():
    model = convert_batch_norm(build("2d", "float64"), "group:2")
    rank = distributed.rank()
    rows = [slice(0, 3), slice(3, 6), slice(6, 8), slice(8, 10)][rank]
    inputs, gradient = joined_batch("2d", "float64", 3)
    result = measure(model, inputs[rows], gradient[rows])
    frozen = build("1d", "float64")
    frozen[0].weight.stop_gradient = True
    convert_batch_norm(frozen, {"group": 2})
    values = paddle.to_tensor(inputs[rows][:, :, 0, 0], stop_gradient=False)
    (frozen(values) ** 3).sum().backward()
    result["frozen"] = numpy.array(frozen[0].weight.grad is None and values.grad is not None)
    untouched = nn.BatchNorm2D(3, use_global_stats=True)
    assert convert_batch_norm(untouched, "group:2") is untouched
    assert type(convert_batch_norm(nn.BatchNorm2D(3), "none")) is nn.BatchNorm2D
    return result


@pytest.mark.dist
def test_groups_share_statistics_among_their_own_ranks_only(tmp_path):
    runs = run_ranks(measure_in_groups, 4, tmp_path)
    inputs, gradient = joined_batch("2d", "float64", 3)
    try:
        for first, rows in ((0, slice(0, 6)), (2, slice(6, 10))):
            expected = measure(build("2d", "float64"), inputs[rows], gradient[rows])
            pair = runs[first: first + 2]
            joined = numpy.concatenate([run.result["input gradient"] for run in pair])
            numpy.testing.assert_allclose(joined, expected["input gradient"], rtol=1e-10, atol=1e-10)
            for run in pair:
                numpy.testing.assert_allclose(run.result["mean"], expected["mean"], rtol=1e-10)
                assert run.result["frozen"]
    finally:
        paddle.set_default_dtype("float32")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_keeps_its_inputs_as_they_are_and_computes_in_float32_at_least(dtype):
    random = numpy.random.RandomState(1)
    values, slope = random.standard_normal([8, 4, 3, 2]) * 2 + 5, random.standard_normal([8, 4, 3, 2])
    wide = "float64" if dtype == "float64" else "float32"
    weight = paddle.to_tensor([1.0, -2.0, 0.5, 3.0], dtype=wide, stop_gradient=False)
    bias = paddle.to_tensor([0.0, 1.0, -1.0, 2.0], dtype=wide, stop_gradient=False)
    inputs = paddle.to_tensor(values, dtype=dtype, stop_gradient=False)
    saved = []
    with paddle.autograd.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        outputs, *_ = _JointNormalise.apply(inputs, weight, bias, 1e-5, False, None)
    assert [tensor.dtype for tensor in saved if tensor.shape == inputs.shape] == [inputs.dtype]
    assert sum(tensor.size for tensor in saved) == inputs.size + 4 + 2 * 4 + 1

    (outputs.astype(wide) * paddle.to_tensor(slope, dtype=wide)).sum().backward()
    plain = nn.BatchNorm2D(4)
    plain.weight.set_value(weight.astype("float32"))
    plain.bias.set_value(bias.astype("float32"))
    reference = inputs.detach().astype("float32")
    reference.stop_gradient = False
    expected = plain(reference)
    (expected * paddle.to_tensor(slope, dtype="float32")).sum().backward()
    rounding = {"float16": 2e-3, "bfloat16": 2e-2}.get(dtype, 5e-5)  # in half of it, outputs would be off by 1e-3
    for actual, wanted in ((outputs, expected), (inputs.grad, reference.grad), (weight.grad, plain.weight.grad)):
        numpy.testing.assert_allclose(actual.astype("float32").numpy(), wanted.numpy(), rtol=rounding, atol=rounding)


def test_one_process_is_left_alone():
    model = nn.Sequential(nn.Conv2D(3, 4, 1), nn.BatchNorm2D(4))
    layers = list(model.sublayers())
    for mode in ("none", "global", "group:1"):
        assert convert_batch_norm(model, mode) is model
        assert all(now is then for now, then in zip(model.sublayers(), layers))


def test_moments_of_parts_combine_to_those_of_the_whole():
    values = numpy.random.RandomState(0).standard_normal([9, 2]) + 1e6
    parts = [values[:4], values[4:4], values[4:]]
    counts = paddle.to_tensor([[4.0], [0.0], [5.0]], dtype="float64")
    means = numpy.stack([part.mean(axis=0) if len(part) else numpy.zeros(2) for part in parts])
    squares = numpy.stack([((part - mean) ** 2).sum(axis=0) for part, mean in zip(parts, means)])
    count, mean, variance = combine_moments(counts, paddle.to_tensor(means), paddle.to_tensor(squares))
    assert count.item() == 9
    numpy.testing.assert_allclose(mean.numpy(), values.mean(axis=0), rtol=1e-14)
    numpy.testing.assert_allclose(variance.numpy(), values.var(axis=0), rtol=1e-9)


@pytest.mark.parametrize(
    "mode, ranks, size",
    [("none", 8, 1), ("global", 8, 8), ("group:8", 64, 8), ({"group": 4}, 8, 4), ("group: 2", 4, 2), ("group:8", 1, 1)],
)
def test_group_size(mode, ranks, size):
    assert group_size(mode, ranks) == size


@pytest.mark.parametrize(
    "mode, message",
    [
        ("group:3", "groups of 3 do not divide 8 ranks; choose a size among 1, 2, 4, 8"),
        ("group:0", "groups of 0 do not divide"),
        ("apex", "'apex' is not known; choose none, global or group:8"),
        ({"size": 4}, "is not known"),
        (True, "is not known"),
    ],
)
def test_unusable_modes_name_what_would_do(mode, message):
    with pytest.raises(ValueError, match=message):
        group_size(mode, 8)
