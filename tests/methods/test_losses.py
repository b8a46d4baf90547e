"""CELoss against its formula."""
import numpy as np
import paddle
import pytest

from passl.methods.classify import CELoss, WeightedSum


def reference(logits, labels, epsilon):
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = np.eye(logits.shape[1])[labels] * (1 - epsilon) + epsilon / logits.shape[1]
    return -(targets * log_p).sum(1)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("batch", [1, 3, 4])  # 3 is also the number of classes
def test_value(epsilon, batch):
    generator = np.random.RandomState(batch)
    logits, labels = generator.normal(size=(batch, 3)), generator.randint(0, 3, batch)
    value = CELoss(epsilon)(paddle.to_tensor(logits), paddle.to_tensor(labels))
    assert float(value) == pytest.approx(reference(logits, labels, epsilon).mean(), rel=1e-12)


def test_unlabelled_rows_do_not_count():
    logits = np.random.RandomState(0).normal(size=(4, 3))
    value = CELoss()(paddle.to_tensor(logits), paddle.to_tensor([1, -1, 2, -1]))
    assert float(value) == pytest.approx(reference(logits[[0, 2]], [1, 2], 0.0).mean())
    assert float(CELoss()(paddle.to_tensor(logits), paddle.to_tensor([-1] * 4))) == 0.0


def test_weighted_sum():
    logits, labels = paddle.to_tensor([[1.0, 2.0]]), paddle.to_tensor([0])
    plain = float(CELoss()(logits, labels))
    assert float(WeightedSum()(logits, labels)) == pytest.approx(plain)
    both = WeightedSum([{"CELoss": {"weight": 2.0}}, {"CELoss": {"epsilon": 0.0, "weight": 0.5}}])
    assert float(both(logits, labels)) == pytest.approx(2.5 * plain)


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="epsilon"):
        CELoss(1.0)
    with pytest.raises(ValueError, match="integer labels"):
        CELoss()(paddle.zeros([3, 3]), paddle.zeros([3, 3]))
