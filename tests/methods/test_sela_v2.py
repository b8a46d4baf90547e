"""SeLa-v2: labels are the transport of the bank, prototypes are learned, options do what they say."""
import numpy as np
import paddle
import pytest

from passl.clustering.balanced_labels import balanced_labels
from passl.distributed import collective_counter
from passl.methods import epoch_labels
from passl.methods.base import RunFacts
from tests.methods import family


def started(model="SeLaV2", **overrides):
    method = family.build(model, **overrides)
    method.train()
    method.on_pass(0, lambda: family.batches(0, dtype="float32"))
    method.on_epoch_start(0)
    return method


def one_step(method, step):
    batch = next(family.batches(1, dtype="float32"))
    loss, statistics, _ = method.training_step(batch, method.plan([batch])[0])
    loss.backward()
    method.after_backward(step)
    return float(loss), statistics


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_labels_are_the_balanced_assignment_of_the_bank(epsilon):
    method = started(epsilon=epsilon)
    labels = method.labels.numpy()
    for head, crop in enumerate([0, 1]):
        weight = method.heads()[head].weight.numpy()
        np.testing.assert_allclose(np.linalg.norm(weight, axis=0), 1, rtol=1e-6)
        expected = balanced_labels(method.bank.embeddings(crop).numpy() @ weight, temperature=0.1,
                                   exponent=0.1 / epsilon, tolerance=1e-6, tolerance_mode="mean")
        np.testing.assert_array_equal(labels[head, method.bank.indices], expected.labels)
        assert method.counts[head].tolist() == expected.counts.tolist()
        assert expected.counts.min() >= 1  # no cluster is empty
    assert (labels == -100).sum(1).tolist() == [3, 3]


def test_prototypes_learn_after_the_freeze():
    method = started()
    weights = [head.weight for head in method.heads()]
    one_step(method, 0)  # freeze_prototypes_niters: 1
    assert all(weight.stop_gradient for weight in weights)  # out of the optimizer's reach
    one_step(method, 1)
    assert all(float(weight.grad.abs().max()) > 0 for weight in weights)


def test_soft_targets_are_the_rows_of_the_transport():
    method = started("SeLaV2 soft")
    hard = started("SeLaV2")
    np.testing.assert_array_equal(method.labels.numpy(), hard.labels.numpy())
    seen = method.bank.indices
    for target, labels in zip(method.targets, method.labels.numpy()):
        np.testing.assert_allclose(target[seen].sum(1), 1, rtol=1e-5)
        np.testing.assert_array_equal(target[seen].argmax(1), labels[seen])
        assert (target[labels == -100] == 0).all()
        np.testing.assert_allclose(target[seen].mean(0), 1 / target.shape[1], rtol=5e-3)  # equal shares
    soft_loss, _ = one_step(method, 1)
    hard_loss, _ = one_step(hard, 1)
    assert np.isfinite(soft_loss) and abs(soft_loss - hard_loss) > 1e-4


def test_soft_targets_are_on_the_device_in_blocks_only(monkeypatch):
    whole = started("SeLaV2 soft")
    monkeypatch.setattr(epoch_labels, "GATHERED_BYTES", 5 * 5 * 4)  # five rows of five clusters, six of four
    with collective_counter() as counter:
        blocked = started("SeLaV2 soft")
    assert max(size for name, size in counter.calls if name == "all_gather") == 24 * 8  # hard labels, sample indices
    assert [size for _, size in counter.calls].count(100) == 4 and 24 * 4 * 4 not in [s for _, s in counter.calls]
    for one, other in zip(whole.targets, blocked.targets):
        np.testing.assert_array_equal(one, other)
    assert isinstance(blocked.label(0, blocked.bank.embeddings(0), 0).soft, np.ndarray)


def test_size_of_soft_targets_is_said():  # zeros that nobody touches take no memory
    with pytest.warns(UserWarning, match="15 GiB of host memory in every process and 15 GiB of every checkpoint"):
        family.METHODS.build({"name": "SeLaV2", "assignment": "soft", "backbone": {
            "type": "resnet10", "stem": "small", "base_channels": 4, "output_dim": 8, "nmb_prototypes": [4000]}},
            run=RunFacts(dataset_size=1_000_000, crop_count=2, iterations_per_epoch=4000))


def test_soft_and_hard_losses_agree_when_targets_are_one_hot():
    method, hard = started("SeLaV2 soft"), started("SeLaV2")
    for head, labels in enumerate(method.labels.numpy()):
        method.targets[head] = (labels[:, None] == np.arange(method.targets[head].shape[1])).astype("float32")
    assert one_step(method, 1)[0] == pytest.approx(one_step(hard, 1)[0], rel=1e-5)


def test_equal_embeddings_are_defined():
    method = family.build("SeLaV2")
    method.bank.push(paddle.ones([2, 24, 8]), np.arange(24))
    method.on_epoch_start(0)
    assert len(set(method.labels.numpy()[0, :24])) == 1


def test_iteration_cap_warns_and_trains_on():
    with pytest.warns(UserWarning, match="stopped after 1 iterations"):
        method = started(epsilon=0.005, sinkhorn_max_iterations=1, sinkhorn_tolerance=1e-9)
    assert np.isfinite(one_step(method, 0)[0])


def test_nan_in_the_bank_is_an_error():
    method = family.build("SeLaV2")
    method.bank.push(paddle.full([2, 24, 8], float("nan")), np.arange(24))
    with pytest.raises(FloatingPointError, match="NaN"):
        method.on_epoch_start(0)


def test_soft_run_does_not_continue_a_hard_one():
    with pytest.raises(ValueError, match="holds hard labels only"):
        family.build("SeLaV2 soft").load_shared_state(started().shared_state())
    with pytest.raises(ValueError, match="assignment: .firm. is not one of soft, hard"):
        family.build("SeLaV2", assignment="firm")
