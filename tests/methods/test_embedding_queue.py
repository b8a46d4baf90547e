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
