"""A training step on n ranks equals the step of one process on the joined batch; the wrapper's switches work."""
from __future__ import annotations

import numpy
import paddle
import pytest
from paddle import nn

from passl import distributed
from passl.distributed import convert_batch_norm, no_sync, wrap
from tests.distributed.ranks import run_ranks

PER_RANK = 4
MEBIBYTE = 2 ** 20


def test_buckets_of_the_published_network():
    """The gradient row of docs/distributed.md: what paddle.DataParallel asks for when `wrap` builds it."""
    from paddle.base import core

    if not hasattr(core, "eager_assign_group_by_size"):
        pytest.skip("this Paddle does not tell how it groups gradients")
    from passl.methods.swav import SwAV

    network = {"type": "resnet50", "normalize": True, "hidden_mlp": 2048, "output_dim": 128, "nmb_prototypes": 3000}
    parameters = [one for one in SwAV(network).model.parameters() if not one.stop_gradient]
    sizes = [1 * MEBIBYTE, 25 * MEBIBYTE]  # the last bucket to be sent, the others
    buckets = core.eager_assign_group_by_size(parameters, [False] * len(parameters), sizes)
    bytes_of = [4 * sum(parameters[index].size for index in bucket) for bucket in buckets]
    assert sum(bytes_of) == 113_419_008
    assert [round(size / MEBIBYTE) for size in bytes_of] == [2, 26, 28, 30, 23]  # 22.5 is 23 as the page has it


class TwoCropNet(nn.Layer):
    """A small trunk applied to crops of two sizes, a head with batch norm, prototypes, and a layer nobody uses."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2D(3, 6, 3, bias_attr=False), nn.BatchNorm2D(6), nn.ReLU(), nn.AdaptiveAvgPool2D(1), nn.Flatten()
        )
        self.head = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1D(8), nn.ReLU(), nn.Linear(8, 5))
        self.prototypes = nn.Linear(5, 7, bias_attr=False)
        self.unused = nn.Linear(2, 2)

    def forward(self, crops):
        features = paddle.concat([self.trunk(crop) for crop in crops])
        return self.prototypes(self.head(features))


def build():
    paddle.set_default_dtype("float64")
    model = TwoCropNet()
    random = numpy.random.RandomState(3)
    for parameter in model.parameters():
        if parameter.stop_gradient:
            continue  # running statistics
        parameter.set_value(random.standard_normal(parameter.shape) * 0.5)
    return model


def crops(ranks, step, only_rank=None):
    random = numpy.random.RandomState(100 + step)
    shapes = [[ranks * PER_RANK, 3, size, size] for size in (8, 6)]
    joined = [random.standard_normal(shape) for shape in shapes]
    rows = slice(None) if only_rank is None else slice(only_rank * PER_RANK, (only_rank + 1) * PER_RANK)
    return [paddle.to_tensor(crop[rows]) for crop in joined]


def unwrap(model):
    return model._layers if isinstance(model, paddle.DataParallel) else model


def disagreeing(model):
    """Names of the parameters whose gradients are not the same on all ranks."""
    gradients = {name: parameter.grad for name, parameter in unwrap(model).named_parameters()}
    return [name for name, gradient in gradients.items()
            if gradient is not None and numpy.ptp(distributed.all_gather(gradient).numpy(), axis=0).any()]


def loss_of(scores):
    return nn.functional.cross_entropy(scores * 3, paddle.zeros([scores.shape[0]], dtype="int64"))


def train(model, ranks, only_rank=None):
    """Two steps of momentum SGD; the last loss, gradients, weights and running statistics."""
    optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters())
    for step in range(2):
        optimizer.clear_grad()
        loss = loss_of(model(crops(ranks, step, only_rank)))
        loss.backward()
        assert not disagreeing(model)
        optimizer.step()
    result = {f"state {name}": value.numpy() for name, value in unwrap(model).state_dict().items()}
    for name, parameter in unwrap(model).named_parameters():
        if parameter.grad is not None:
            result[f"gradient {name}"] = parameter.grad.numpy()
    result["loss"] = distributed.all_reduce(loss).numpy() / distributed.world_size()
    return result


def train_on_ranks(bucket_megabytes):
    model = wrap(convert_batch_norm(build(), "global"), True, bucket_megabytes)
    return train(model, distributed.world_size(), distributed.rank())


@pytest.mark.dist
@pytest.mark.parametrize("ranks, bucket_megabytes", [(2, 25), (3, 25), (2, 0)])
def test_step_equals_the_step_on_the_joined_batch(tmp_path, ranks, bucket_megabytes):
    """A bucket size of 0 sends every gradient by itself: the order of many reductions is exercised too."""
    runs = run_ranks(train_on_ranks, ranks, tmp_path, bucket_megabytes=bucket_megabytes)
    try:
        expected = train(build(), ranks)
    finally:
        paddle.set_default_dtype("float32")
    assert "gradient trunk.0.weight" in expected and "gradient unused.weight" not in expected
    for run in runs:
        assert sorted(run.result) == sorted(expected)
        for name, value in expected.items():
            numpy.testing.assert_allclose(run.result[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


def use_the_switches():
    rank, ranks = distributed.rank(), distributed.world_size()
    result = {}

    def gradients(model):
        return {name: p.grad.numpy() for name, p in unwrap(model).named_parameters() if p.grad is not None}

    def clear(model):
        for parameter in model.parameters():
            parameter.clear_gradient(set_to_zero=False)

    # Accumulation: two micro-batches, reduced once.
    model = wrap(build(), True)
    model.eval()
    with no_sync(model):
        (loss_of(model(crops(ranks, 0, rank))) * 0.25).backward()
    local = gradients(model)["head.0.weight"]
    (loss_of(model(crops(ranks, 1, rank))) * 0.75).backward()
    result["accumulated"] = gradients(model)["head.0.weight"]
    result["local differs"] = numpy.abs(distributed.all_gather(paddle.to_tensor(local)).numpy().std(axis=0)).max()
    # Prototypes frozen from the start of a run, as SwAV does, get no gradient at all until they are thawed.
    model = wrap(build(), True)
    for frozen in (True, True, False):
        clear(model)
        unwrap(model).prototypes.weight.stop_gradient = frozen
        loss_of(model(crops(ranks, 0, rank))).backward()
        assert not disagreeing(model)
        assert ("prototypes.weight" in gradients(model)) is not frozen
    # A layer called past its wrapper is not reduced.
    clear(model)
    loss_of(unwrap(model)(crops(ranks, 0, rank))).backward()
    result["bypassed"] = "trunk.0.weight" in disagreeing(model)
    return result


@pytest.mark.dist
def test_accumulation_freezing_and_bypassing(tmp_path):
    runs = run_ranks(use_the_switches, 2, tmp_path)
    try:
        model = build()
        model.eval()
        for step, weight in ((0, 0.25), (1, 0.75)):
            (loss_of(model(crops(2, step))) * weight).backward()
        expected = model.head[0].weight.grad.numpy()
    finally:
        paddle.set_default_dtype("float32")
    for run in runs:
        assert numpy.isfinite(expected).all()
        numpy.testing.assert_allclose(run.result["accumulated"], expected, rtol=1e-10, atol=1e-14)
        assert run.result["local differs"] > 1e-6
        assert run.result["bypassed"]


def test_one_process_is_left_alone():
    layer = nn.Linear(2, 2)
    assert wrap(layer) is layer
    with no_sync(layer):
        layer(paddle.ones([1, 2])).sum().backward()
