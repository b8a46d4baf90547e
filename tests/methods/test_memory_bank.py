"""The memory bank: whole epochs by sample index, rows drawn over all ranks, its way into another number of ranks."""
import numpy as np
import paddle
import pytest

from passl import distributed
from passl.methods.memory_bank import MemoryBank
from tests.simulated_ranks import run_ranks


def rows(indices, crops=2, dimension=3):
    """[A, n, D] whose first number names crop and sample."""
    values = np.random.RandomState(0).standard_normal((crops, len(indices), dimension)).astype("float32")
    values[..., 0] = 1000 * np.arange(crops)[:, None] + np.asarray(indices)
    return paddle.to_tensor(values)


def bank_of(*steps, capacity=4):
    bank = MemoryBank(2, capacity, 3)
    for indices in steps:
        bank.push(rows(indices), np.array(indices))
    return bank


def contents(bank):
    return [(index, float(a), float(b)) for index, a, b in
            zip(bank.indices.tolist(), bank.embeddings(0).numpy()[:, 0], bank.embeddings(1).numpy()[:, 0])]


def test_first_rows_of_an_epoch_replace_the_epoch_before():
    bank = bank_of([5, 3], [8, 1])
    assert contents(bank) == [(5, 5, 1005), (3, 3, 1003), (8, 8, 1008), (1, 1, 1001)]
    bank.start_epoch()
    assert len(contents(bank)) == 4  # clustering at the start of an epoch still sees all of it
    bank.push(rows([2]), np.array([2]))
    assert contents(bank) == [(2, 2, 1002)]


def test_grows_when_more_rows_come():
    assert [index for index, *_ in contents(bank_of([1, 2], [3, 4], [5, 6, 7]))] == [1, 2, 3, 4, 5, 6, 7]


def test_state_round_trip_keeps_where_the_epoch_stands():
    for stale in (False, True):
        bank, copy = bank_of([5, 3]), MemoryBank(2, 4, 3)
        if stale:
            bank.start_epoch()
        assert copy.load([bank.state()], 0, 1) is None
        assert contents(copy) == contents(bank)
        for one in (bank, copy):
            one.push(rows([9]), np.array([9]))
        assert contents(copy) == contents(bank) and len(contents(copy)) == (1 if stale else 3)


def test_every_rank_gets_its_own_rows_back():
    saved = [bank_of([0, 2]), bank_of([1, 3])]
    for rank in range(2):
        bank = MemoryBank(2, 2, 3)
        assert bank.load([one.state() for one in saved], rank, 2) is None
        assert contents(bank) == contents(saved[rank])


def test_re_divided_among_another_number_of_ranks():
    states = [bank_of([0, 2], [4, 6]).state(), bank_of([1, 3], [5]).state()]
    joined = []
    for rank in range(3):
        bank = MemoryBank(2, 2, 3)
        assert "memory bank re-divided: 7 images of 2 ranks" in bank.load(states, rank, 3)
        joined += contents(bank)
    assert sorted(joined) == [(index, index, 1000 + index) for index in range(7)]


def test_state_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="2 crops of 3 dimensions, this run has 2 of 8"):
        MemoryBank(2, 4, 8).load([bank_of([1]).state()], 0, 1)


@pytest.mark.parametrize("shares", [[[4, 1, 7, 3, 0, 6]], [[4, 7, 0], [1, 3, 6]], [[4, 1], [], [7, 3, 0, 6]]])
def test_draw_is_the_same_for_any_division_into_ranks(shares, monkeypatch):
    expected = bank_of([4, 1, 7, 3, 0, 6]).draw(1, 4, 8, [3, 0, 1]).numpy()
    assert len(set(expected[:, 0])) == 4 and set(expected[:, 0]) <= {1000 + i for i in (4, 1, 7, 3, 0, 6)}

    def draw(rank, collectives):
        bank = bank_of(shares[rank]) if shares[rank] else MemoryBank(2, 4, 3)
        current.collectives = collectives
        return bank.draw(1, 4, 8, [3, 0, 1]).numpy()

    import threading

    current = threading.local()
    monkeypatch.setattr(distributed, "all_reduce", lambda *arguments: current.collectives.all_reduce(*arguments))
    for found in run_ranks(len(shares), draw):
        np.testing.assert_array_equal(found[:, 0], expected[:, 0])


def test_draw_depends_on_its_entropy_and_averages_an_image_that_pads_the_epoch():
    bank = bank_of(list(range(50)), capacity=50)
    first, second = (bank.draw(0, 5, 50, [7, 0, head]).numpy()[:, 0] for head in (0, 1))
    assert (first != second).any()
    assert bank_of([2, 2]).draw(0, 1, 3, [0]).numpy()[0, 0] == 2


def test_fewer_images_than_rows_to_draw():
    with pytest.raises(ValueError, match="draw 3 initial centroids from the 2 images.*nmb_prototypes"):
        bank_of([2, 2], [5]).draw(0, 3, 8, [0])
