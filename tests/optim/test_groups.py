"""Parameter groups, Paddle's own optimizers under our keys, clipping over all groups, and the test for finiteness."""
import numpy as np
import paddle
import pytest

from passl.optim.gradients import clip_by_global_norm
from passl.optim.groups import GroupedOptimizer


def layer():
    paddle.seed(0)
    return paddle.nn.Sequential(("trunk", paddle.nn.Linear(3, 4)), ("head", paddle.nn.Linear(4, 2)))


def grouped(network, name="Momentum", **section):
    section = {"name": name, "lr": {"name": "Constant", "learning_rate": 0.1}, **section}
    return GroupedOptimizer(section, list(network.named_parameters()), epochs=2, iterations_per_epoch=3)


def backward(network, factor=1.0):
    (network(paddle.to_tensor([[1.0, -2.0, 0.5], [0.3, 0.7, -1.0]])) ** 2).sum().scale(factor).backward()


def values(network):
    return {name: parameter.numpy().copy() for name, parameter in network.named_parameters()}


def step(optimizer, number=0):
    optimizer.set_step(number)
    optimizer.clip_gradients()
    for inner in optimizer.optimizers:
        inner.step()


def test_groups_have_their_own_rate_decay_and_schedule():
    network = layer()
    schedule = {"name": "MultiStepDecay", "learning_rate": 2.0, "milestones": [1]}
    optimizer = grouped(network, momentum=0.0, param_groups=[{"name": "head", "weight_decay": 0.5, "lr": schedule}])
    assert [name for name, _, _, _ in optimizer.groups] == ["head", "default"]
    assert optimizer.set_step(0) == {"head": 2.0, "default": 0.1}
    assert optimizer.set_step(3)["head"] == pytest.approx(0.2)
    before = values(network)
    backward(network)
    gradients = {name: parameter.grad.numpy() for name, parameter in network.named_parameters()}
    step(optimizer)
    for name, value in values(network).items():
        rate, decay = (2.0, 0.5) if name.startswith("head") else (0.1, 0.0)
        np.testing.assert_allclose(value, before[name] - rate * (gradients[name] + decay * before[name]), rtol=1e-5,
                                   atol=1e-6)


def test_first_matching_group_wins_and_a_name_without_parameters_is_refused():
    optimizer = grouped(layer(), param_groups=[{"name": "head.weight"}, {"name": "head"}])
    assert [[name for name, _ in named] for _, named, _, _ in optimizer.groups] == [
        ["head.weight"], ["head.bias"], ["trunk.weight", "trunk.bias"]]
    with pytest.raises(ValueError, match="no parameter's name starts with 'neck'; names look like 'trunk.weight'"):
        grouped(layer(), param_groups=[{"name": "neck"}])


def test_adamw_equals_its_formula_over_three_steps():
    network = layer()
    optimizer = grouped(network, "AdamW", betas=[0.8, 0.95], eps=1e-6, weight_decay=0.05)
    expected = values(network)
    first = {name: 0.0 for name in expected}
    second = dict(first)
    for number in range(1, 4):
        backward(network)
        for name, parameter in network.named_parameters():
            gradient = parameter.grad.numpy()
            first[name] = 0.8 * first[name] + 0.2 * gradient
            second[name] = 0.95 * second[name] + 0.05 * gradient ** 2
            mean, square = first[name] / (1 - 0.8 ** number), second[name] / (1 - 0.95 ** number)
            expected[name] = expected[name] * (1 - 0.1 * 0.05) - 0.1 * mean / (np.sqrt(square) + 1e-6)
        step(optimizer)
        optimizer.clear_grad()
    for name, value in values(network).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["AdamW", "Momentum", "MomentumLARC"])
def test_state_goes_into_a_fresh_optimizer(name):
    rules = [{"name": "head", "lr": {"name": "Constant", "learning_rate": 0.01}}]
    first = layer()
    optimizer = grouped(first, name, param_groups=rules)
    second = layer()
    for number in range(4):
        if number == 2:
            for target, source in zip(second.parameters(), first.parameters()):
                target.set_value(source)
            other = grouped(second, name, param_groups=rules)
            other.set_state_dict(optimizer.state_dict())
        for network, owner in ((first, optimizer), (second, other)) if number >= 2 else ((first, optimizer),):
            backward(network)
            step(owner, number)
            owner.clear_grad()
    for name, value in values(first).items():
        np.testing.assert_array_equal(value, values(second)[name])


def test_clipping_reaches_the_norm_over_all_groups_and_spares_smaller_gradients():
    network = layer()
    optimizer = grouped(network, momentum=0.0, grad_clip={"clip_norm": 0.25}, param_groups=[{"name": "head"}])
    before = values(network)
    backward(network)
    gradients = {name: parameter.grad.numpy() for name, parameter in network.named_parameters()}
    norm = np.sqrt(sum((gradient ** 2).sum() for gradient in gradients.values()))
    assert norm > 0.25
    step(optimizer)
    for name, value in values(network).items():
        np.testing.assert_allclose(value, before[name] - 0.1 * gradients[name] * 0.25 / norm, rtol=1e-4, atol=1e-7)
    optimizer.clear_grad()
    backward(network, 1e-3)
    small = [parameter.grad.numpy() for parameter in network.parameters()]
    clip_by_global_norm(network.parameters(), 0.25)
    for parameter, gradient in zip(network.parameters(), small):
        np.testing.assert_array_equal(parameter.grad.numpy(), gradient)


@pytest.mark.parametrize("name", ["AdamW", "MomentumLARC"])
@pytest.mark.parametrize("clip", [None, {"clip_norm": 1.0}])
def test_gradients_that_are_not_finite_are_noticed_in_every_group(name, clip):
    for broken in ("trunk.bias", "head.weight", None):
        network = layer()
        optimizer = grouped(network, name, grad_clip=clip, param_groups=[{"name": "head"}])
        backward(network)
        with paddle.no_grad():
            for parameter_name, parameter in network.named_parameters():
                if parameter_name == broken:
                    parameter.grad.scale_(float("inf"))
        assert optimizer.gradients_finite() == (broken is None)


def test_measuring_beforehand_does_not_change_larc():
    results = []
    for measure in (True, False):
        network = layer()
        optimizer = grouped(network, "MomentumLARC", weight_decay=0.1)
        for number in range(3):
            backward(network)
            assert not measure or optimizer.gradients_finite()
            step(optimizer, number)
            optimizer.clear_grad()
        results.append(values(network))
    for name, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][name])
