from __future__ import annotations

import numpy as np
import pytest

from passl.data.random_streams import Stream, permutation, stream_key, uniform_draws


def test_numbers_are_pinned():
    """Another Python, NumPy or machine must give the same: a resumed run goes on with them."""
    assert permutation(6, 1, 2, 3).tolist() == [3, 5, 1, 2, 4, 0]
    assert stream_key(7, 3, 11) == stream_key(np.int64(7), np.uint8(3), 11) == 0x994FD9E39B3BB3EB
    draw = uniform_draws(stream_key(7, 3, 11))
    assert [draw() for _ in range(3)] == [0.2806427764815512, 0.16228203898952176, 0.8698811015916198]


def test_a_stream_yields_the_draws_of_its_key():
    stream, draw = Stream(7, 3, 11), uniform_draws(stream_key(7, 3, 11))
    assert [stream.random() for _ in range(50)] == [draw() for _ in range(50)]


def test_every_part_and_its_position_change_the_stream():
    keys = {stream_key(seed, epoch, index) for seed in range(8) for epoch in range(8) for index in range(8)}
    assert len(keys) == 512
    assert stream_key(1, 2) != stream_key(2, 1) and stream_key(0) != stream_key(0, 0)


def test_draws_are_uniform_and_uncorrelated_between_neighbouring_samples():
    streams = [uniform_draws(stream_key(0, 0, index)) for index in range(500)]
    draws = np.array([[draw() for _ in range(64)] for draw in streams])
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    assert ((counts - 1600) ** 2 / 1600).sum() < 44  # chi-squared, 19 degrees of freedom, p = 0.001
    correlation = np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]
    assert abs(correlation) < 0.02


def test_permutation_holds_every_item_and_depends_on_epoch():
    first, second = permutation(1000, 0, 0), permutation(1000, 0, 1)
    assert sorted(first) == list(range(1000)) and (first != second).any()
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.1


@pytest.mark.parametrize("count", [1, 2, 5])
def test_integer_covers_its_range_evenly(count):
    stream = Stream(3)
    seen = np.bincount([stream.integer(count) for _ in range(2000)], minlength=count)
    assert len(seen) == count and (abs(seen - 2000 / count) < 4 * (2000 / count) ** 0.5 + 1).all()


def test_order_is_a_permutation_and_all_orders_occur():
    stream = Stream(5)
    orders = {tuple(stream.order(3)) for _ in range(200)}
    assert len(orders) == 6
