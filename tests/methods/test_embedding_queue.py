"""The queue against the original's: when it is used and in which order it holds what was pushed."""
import numpy as np
import paddle

from passl.methods.embedding_queue import EmbeddingQueue
from tests.golden.networks import load


def test_order_and_first_use_equal_the_reference():
    log = load("reference_functions.json")["queue_fifo"]["log"]
    queue = EmbeddingQueue(crops=1, total_length=4, global_batch=2, world_size=1, dimension=2)
    for expected in log:
        assert queue.usable == expected["queue_used_before_fill"]
        first = 10.0 * expected["iteration"] + 1
        queue.push(paddle.to_tensor([[[first, 0.0], [first + 1, 0.0]]]))
        np.testing.assert_array_equal(queue.entries.numpy()[0, :, 0], expected["queue_after"])


def queue_of(rank, world_size, steps, total_length=12, rows=2):
    """The queue of a rank after some steps; entry 100 s + r is row r of the joined batch of step s."""
    queue = EmbeddingQueue(2, total_length, rows * world_size, world_size, 1)
    for step in range(steps):
        values = 100.0 * step + rank * rows + np.arange(rows, dtype="float32")
        queue.push(paddle.to_tensor(np.stack([values, -values])[:, :, None]))
    return queue


def entries(queue):
    return queue.entries.numpy()[0, :queue.filled, 0].tolist()


def test_length_is_rounded_down_to_whole_batches_and_shared():
    queue = EmbeddingQueue(crops=1, total_length=11, global_batch=4, world_size=2, dimension=3)
    assert (queue.total_length, queue.local_length, list(queue.entries.shape)) == (8, 4, [1, 4, 3])


def test_used_only_when_the_last_entry_is_there():
    """With one image a step there is a step on which all but one entry are filled."""
    for steps, usable in ((3, False), (4, True), (5, True)):
        assert queue_of(0, 1, steps, total_length=4, rows=1).usable is usable


def test_every_rank_gets_its_own_entries_back():
    saved = [queue_of(rank, 2, 2) for rank in range(2)]
    for rank in range(2):
        queue = queue_of(rank, 2, 0)
        assert queue.load([one.state() for one in saved], rank, 2) is None
        np.testing.assert_array_equal(queue.entries.numpy(), saved[rank].entries.numpy())
        assert (queue.filled, queue.usable) == (4, False)


def test_other_ranks_share_the_entries_newest_first():
    one = queue_of(0, 1, 3)
    assert entries(one) == [200, 201, 100, 101, 0, 1]
    shares = [queue_of(rank, 2, 0) for rank in range(2)]
    for rank, queue in enumerate(shares):
        assert "1 ranks x 12 entries -> 2 x 6, 3 filled on each" in queue.load([one.state()], rank, 2)
        np.testing.assert_array_equal(queue.entries.numpy()[1], -queue.entries.numpy()[0])
    assert [entries(queue) for queue in shares] == [[200, 100, 0], [201, 101, 1]]
    whole = queue_of(0, 1, 0)
    whole.load([queue.state() for queue in shares], 0, 1)
    np.testing.assert_array_equal(whole.entries.numpy(), one.entries.numpy())
    assert whole.filled == 6
