import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passl.distributed import collective_counter
from passl.evaluation.metrics import TopkAcc
from passl.registry import METRICS
from tests.simulated_ranks import run_ranks


def plain_topk(logits, labels, k):
    hits = [label in sorted(range(len(row)), key=lambda c: (-row[c], c))[:k]
            for row, label in zip(logits, labels) if label >= 0]
    return sum(hits) / len(hits)


def batches(sizes, classes=7, seed=0):
    rng = np.random.default_rng(seed)
    for size in sizes:
        # small integers, so that many logits are equal
        yield rng.integers(-2, 3, (size, classes)).astype(np.float32), rng.integers(-1, classes, size)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 6), min_size=1, max_size=4))
def test_counts_exactly_over_short_batches_and_ties(seed, sizes):
    sizes.append(5)
    metric, seen = TopkAcc([1, 2, 5]), []
    for logits, labels in batches(sizes, seed=seed):
        labels[-1:] = 3
        metric.update(paddle.to_tensor(logits), paddle.to_tensor(labels))
        seen.append((logits, labels))
    logits, labels = (np.concatenate(parts) for parts in zip(*seen))
    result = metric.result()
    assert list(result) == ["top1", "top2", "top5", "metric"]
    for k in (1, 2, 5):
        assert result[f"top{k}"] == pytest.approx(plain_topk(logits, labels, k), abs=1e-12)


def test_ranks_with_unequal_shares_give_what_one_process_gives():
    data = list(batches([8, 8, 3]))
    whole = TopkAcc([2, 1])
    for logits, labels in data:
        whole.update(logits, labels)

    def run(rank, collectives):
        metric = TopkAcc([2, 1])
        for logits, labels in data[rank::2]:
            metric.update(logits, labels)
        result = metric.result(collectives)
        assert [name for name, _ in collectives.calls] == ["all_reduce"]
        return result

    expected = whole.result()
    assert expected["metric"] == expected["top2"]
    assert run_ranks(2, run) == [expected] * 2


def test_one_collective_for_a_whole_evaluation():
    metric = TopkAcc()
    with collective_counter() as counter:
        for logits, labels in batches([4, 4, 4]):
            metric.update(logits, labels)
        metric.result()
    assert counter.calls == [("all_reduce", 5 * 8)]


def test_batch_as_large_as_the_number_of_classes_and_column_labels():
    metric = METRICS.build({"name": "TopkAcc", "topk": [1]})
    metric.update(np.eye(5, dtype=np.float32), np.arange(5)[:, None])
    metric.update(np.eye(5, dtype=np.float32), np.array([1, 1, 0, 0, 0]))
    assert metric.result() == {"top1": 0.6, "metric": 0.6}
    metric.reset()
    metric.update(np.eye(5, dtype=np.float32), np.zeros(5, np.int64))
    assert metric.result()["top1"] == 0.2


def test_half_precision_logits():
    metric = TopkAcc(1)
    metric.update(paddle.to_tensor([[0.0, 1.0], [2.0, 1.0]], dtype="bfloat16"), paddle.to_tensor([1, 1]))
    assert metric.result()["top1"] == 0.5


@pytest.mark.parametrize("logits, labels, error, message", [
    (np.array([[np.nan, 1]]), np.array([0]), FloatingPointError, "1 images have logits with NaN"),
    (np.array([[np.inf, 1]]), np.array([0]), FloatingPointError, "1 images have logits with NaN"),
    (np.array([[0.0, 1]]), np.array([2]), ValueError, r"1 labels are outside -1\.\.1"),
    (np.array([[0.0, 1]]), np.array([-2]), ValueError, "1 labels are outside"),
    (np.array([[0.0, 1]]), np.array([-1]), ValueError, "no labelled image"),
    (np.zeros((0, 2)), np.zeros(0, np.int64), ValueError, "no labelled image"),
    (np.zeros((3, 2)), np.zeros(2, np.int64), ValueError, r"got \[3, 2\] and \[2\]"),
    (np.zeros((3, 2)), np.zeros(3), ValueError, "labels integer"),
])
def test_nothing_passes_silently(logits, labels, error, message):
    metric = TopkAcc([1])
    with pytest.raises(error, match=message):
        metric.update(logits, labels)
        metric.result()


def test_k_above_the_number_of_classes_names_the_remedy():
    with pytest.raises(ValueError, match=r"holds 5 but there are 3 classes; set .* to \[1\]"):
        TopkAcc([1, 5]).update(np.zeros((2, 3), np.float32), np.zeros(2, np.int64))


@pytest.mark.parametrize("topk", [[], [0], [1, 1], [1.5]])
def test_wrong_topk(topk):
    with pytest.raises(ValueError, match="TopkAcc.topk"):
        TopkAcc(topk)
