from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passl.data.sampler import BatchSampler, DistributedBatchSampler
from passl.errors import DataError


def entries(sampler, epoch=0, **position):
    """(indices [T, B] flattened per batch, padding flags) of one epoch."""
    batches = list(sampler.epoch(epoch, **position))
    return [indices.tolist() for indices, _ in batches], [padded.tolist() for _, padded in batches]


@settings(max_examples=80, deadline=None)
@given(size=st.integers(1, 60), batch=st.integers(1, 7), world=st.integers(1, 5), shuffle=st.booleans(),
       epoch=st.integers(0, 3))
def test_ranks_cover_everything_once_with_equal_batches(size, batch, world, shuffle, epoch):
    samplers = [DistributedBatchSampler(size, batch, shuffle, False, seed=5, rank=rank, world_size=world)
                for rank in range(world)]
    results = [entries(sampler, epoch) for sampler in samplers]
    lengths = [[len(row) for row in batches] for batches, _ in results]
    assert all(length == lengths[0] for length in lengths)
    assert all(len(sampler) == len(lengths[0]) for sampler in samplers)
    real = [index for batches, padded in results for row, flags in zip(batches, padded)
            for index, is_padding in zip(row, flags) if not is_padding]
    assert sorted(real) == list(range(size))


@settings(max_examples=80, deadline=None)
@given(size=st.integers(1, 80), batch=st.integers(1, 6), world=st.integers(1, 4))
def test_drop_last_follows_torch(size, batch, world):
    expected = -(-size // world) // batch
    if expected == 0:
        with pytest.raises(DataError, match="zero iterations"):
            DistributedBatchSampler(size, batch, True, True, world_size=world)
        return
    sampler = DistributedBatchSampler(size, batch, True, True, world_size=world)
    batches, _ = entries(sampler)
    assert len(sampler) == len(batches) == expected
    assert all(len(row) == batch for row in batches)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(4, 60), batch=st.integers(1, 4), world=st.integers(1, 3), drop_last=st.booleans(),
       data=st.data())
def test_resuming_continues_exactly(size, batch, world, drop_last, data):
    sampler = DistributedBatchSampler(size, batch, True, drop_last and size >= batch * world, seed=1, world_size=world)
    whole, flags = entries(sampler, 2)
    start = data.draw(st.integers(0, len(whole)))
    assert entries(sampler, 2, start_iteration=start) == (whole[start:], flags[start:])


def test_another_world_size_takes_over_in_mid_epoch():
    before = [DistributedBatchSampler(48, 4, True, True, seed=3, rank=rank, world_size=3) for rank in range(3)]
    used = {index for sampler in before for row in entries(sampler, 1)[0][:2] for index in row}
    assert len(used) == 24
    after = [DistributedBatchSampler(48, 4, True, True, seed=3, rank=rank, world_size=2) for rank in range(2)]
    rest = [index for sampler in after for row in entries(sampler, 1, consumed=24)[0] for index in row]
    assert sorted(used | set(rest)) == list(range(48)) and len(rest) == 24


def test_ranks_together_use_the_single_process_order():
    alone = entries(DistributedBatchSampler(40, 8, True, True, seed=9))[0]
    ranks = [entries(DistributedBatchSampler(40, 4, True, True, seed=9, rank=rank, world_size=2))[0]
             for rank in range(2)]
    for iteration, batch in enumerate(alone):
        joined = np.stack([ranks[0][iteration], ranks[1][iteration]], axis=1).ravel()
        np.testing.assert_array_equal(joined, batch)


def test_order_depends_on_seed_and_epoch_only():
    order = DistributedBatchSampler(100, 4, True, seed=1).order
    other_seed = DistributedBatchSampler(100, 4, True, seed=2).order
    other_rank = DistributedBatchSampler(100, 9, True, seed=1, rank=1, world_size=2).order
    assert (order(0) == other_rank(0)).all()
    assert (order(0) != order(1)).any() and (order(0) != other_seed(0)).any()


@pytest.mark.parametrize("images, cards, batch, iterations", [
    (1281167, 64, 64, 312), (1281167, 64, 40, 500), (1281167, 128, 12, 834), (1281167, 4, 64, 5004)])
def test_iterations_of_the_published_recipes(images, cards, batch, iterations):
    assert len(DistributedBatchSampler(images, batch, True, True, world_size=cards)) == iterations


def test_batch_sampler_gives_every_rank_everything():
    sampler = BatchSampler(10, 4)
    assert entries(sampler)[0] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("arguments, said", [
    (dict(size=5, batch_size=0), "batch_size is 0"),
    (dict(size=5, batch_size=1, rank=2, world_size=2), "rank 2 is outside 0 .. 1"),
    (dict(size=7, batch_size=4, drop_last=True, world_size=2, rank=0), None)])
def test_bad_arguments(arguments, said):
    if said is None:
        assert len(DistributedBatchSampler(**arguments)) == 1  # 7 images are padded to 2 x 4
        return
    with pytest.raises(DataError, match=said):
        DistributedBatchSampler(**arguments)


def test_too_few_images_names_the_numbers():
    with pytest.raises(DataError, match=r"6 images make no whole batch: batch_size 4 x 2 .* = 8 .* at most 3"):
        DistributedBatchSampler(6, 4, True, True, world_size=2)
