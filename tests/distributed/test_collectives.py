"""Collectives: the identity in one process, sums and orders over two ranks, counted alike in both."""
from __future__ import annotations

import numpy
import paddle
import pytest

from passl import distributed
from tests.distributed.ranks import run_ranks

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8"]


def own_values(rank: int, dtype: str):
    return (paddle.arange(6, dtype="int32").reshape([2, 3]) + 10 * rank).astype(dtype)


def as_numbers(tensor):
    return tensor.astype("float64").numpy()


def every_collective():
    rank = distributed.rank()
    result = {}
    for dtype in DTYPES:
        own = own_values(rank, dtype)
        outcomes = {
            "sum": distributed.all_reduce(own),
            "max": distributed.all_reduce(own, "max"),
            "min": distributed.all_reduce(own, "min"),
            "gather": distributed.all_gather(own),
            "broadcast": distributed.broadcast(own, source=1),
            "own": own,
        }
        assert all(outcome.dtype == own.dtype for outcome in outcomes.values()), dtype
        result.update({f"{dtype} {name}": as_numbers(outcome) for name, outcome in outcomes.items()})
    strided = own_values(rank, "float32").t()
    result["strided sum"] = as_numbers(distributed.all_reduce(strided))
    result["strided gather"] = as_numbers(distributed.all_gather(strided))
    result["scalar sum"] = as_numbers(distributed.all_reduce(paddle.full([], rank + 1.0)))
    result["empty sum"] = as_numbers(distributed.all_reduce(paddle.zeros([0, 3])))
    result["half sum"] = as_numbers(distributed.all_reduce(paddle.full([1], 1e-3 if rank else 1.0, dtype="bfloat16")))
    result["rows"] = as_numbers(distributed.all_gather_rows(paddle.full([3 * rank, 2], float(rank))))
    with distributed.collective_counter() as outer, distributed.collective_counter() as inner:
        distributed.barrier()
        distributed.all_reduce(strided)
    result["names"] = [name for name, _ in outer.calls + inner.calls]
    result["objects"] = [str(value) for value in distributed.gather_objects({"rank": rank, "é": ["x"] * rank})]
    result["all ok"] = [distributed.all_ok(True), distributed.all_ok(rank == 0)]
    distributed.fail_together("reading", None)
    try:
        distributed.fail_together("writing the checkpoint", OSError("disk full") if rank == 1 else None)
    except distributed.RankFailure as failure:
        result["failure"] = str(failure)
    return result


@pytest.mark.dist
def test_two_ranks(tmp_path):
    runs = run_ranks(every_collective, 2, tmp_path)
    for run in runs:
        result = run.result
        for dtype in DTYPES:
            low, high = (as_numbers(own_values(rank, dtype)) for rank in (0, 1))
            numpy.testing.assert_array_equal(result[f"{dtype} sum"], low + high, dtype)
            numpy.testing.assert_array_equal(result[f"{dtype} max"], high, dtype)
            numpy.testing.assert_array_equal(result[f"{dtype} min"], low, dtype)
            numpy.testing.assert_array_equal(result[f"{dtype} gather"], [low, high], dtype)
            numpy.testing.assert_array_equal(result[f"{dtype} broadcast"], high, dtype)
            numpy.testing.assert_array_equal(result[f"{dtype} own"], [low, high][run.rank], "argument untouched")
        low, high = (as_numbers(own_values(rank, "float32")).T for rank in (0, 1))
        numpy.testing.assert_array_equal(result["strided sum"], low + high)
        numpy.testing.assert_array_equal(result["strided gather"], [low, high])
        assert result["scalar sum"] == 3.0 and result["scalar sum"].shape == ()
        assert result["empty sum"].shape == (0, 3)
        # 1 + bfloat16(0.001) rounds back to 1.0 in bfloat16; a float32 sum rounded once gives the same.
        assert result["half sum"] == 1.0
        numpy.testing.assert_array_equal(result["rows"], numpy.ones([3, 2]))
        assert result["names"].tolist() == ["barrier", "all_reduce"] * 2
        assert result["objects"].tolist() == ["{'rank': 0, 'é': []}", "{'rank': 1, 'é': ['x']}"]
        assert result["all ok"].tolist() == [True, False]
        assert str(result["failure"]) == "writing the checkpoint failed on rank 1\n  rank 1: disk full"


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_process_is_the_identity(dtype):
    own = own_values(0, dtype)
    with distributed.collective_counter() as count:
        results = [distributed.all_reduce(own), distributed.all_gather(own)[0], distributed.broadcast(own)]
    for result in results:
        assert result.dtype == own.dtype
        numpy.testing.assert_array_equal(as_numbers(result), as_numbers(own))
    size = 6 * own.element_size()
    assert count.calls == [("all_reduce", size), ("all_gather", size), ("broadcast", size)] and count.bytes == 3 * size


def test_the_result_is_a_new_tensor():
    own = paddle.ones([2])
    distributed.all_reduce(own).add_(paddle.ones([2]))
    numpy.testing.assert_array_equal(own.numpy(), [1, 1])


def test_one_process_reports_its_own_failure():
    with pytest.raises(distributed.RankFailure, match="reading failed on rank 0\n  rank 0: ValueError") as caught:
        distributed.fail_together("reading", ValueError())
    assert isinstance(caught.value.__cause__, ValueError)


def test_unknown_operation_is_refused():
    with pytest.raises(ValueError, match="'mean'; choose sum, max or min"):
        distributed.all_reduce(paddle.ones([1]), "mean")


def test_collective_before_initialize_names_the_remedy(monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    with pytest.raises(RuntimeError, match="rank 0 of 2 .*initialize"):
        distributed.all_reduce(paddle.ones([1]))
