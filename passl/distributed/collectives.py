"""Collectives over all ranks that cost nothing in a single process, behave alike on gloo and NCCL, and can be counted.

Every function returns a new tensor and leaves its argument alone (`paddle.distributed.all_reduce` works in place).
With one process they are the identity, so that code above never asks how many ranks there are. Three defects of the
bare calls are repaired here: float16 sums over gloo are wrong in Paddle 3.3 (they come back as inf), strided tensors
are rejected by 3.3 and summed in the wrong order by 2.6, and empty tensors make gloo fail.

Nothing imports Paddle before a tensor arrives: the launch variables can be read and checked first.
"""
from __future__ import annotations

import json
import math
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, List, Optional, Tuple, Type

from passl.errors import UserError

__all__ = ["JointFailure", "RankFailure", "all_gather", "all_gather_rows", "all_ok", "all_reduce", "barrier",
           "broadcast", "collective_counter", "fail_together", "gather_objects", "local_rank", "rank", "together",
           "wait_for_ranks", "world_size"]


def world_size() -> int:
    """Number of processes of the job, from the launch variables; 1 without a launcher."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM") or 1)


def rank() -> int:
    """This process's number in the job, 0 to `world_size() - 1`."""
    return int(os.environ.get("PADDLE_TRAINER_ID") or 0)


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("PADDLE_LOCAL_RANK") or 0)


@dataclass
class CollectiveCount:
    """The collectives issued by this rank inside a `collective_counter()` block, in order.

    `calls` holds (name, bytes this rank contributes) pairs, name being all_reduce, all_gather, broadcast or barrier.
    """

    calls: List[Tuple[str, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.calls)

    @property
    def bytes(self) -> int:
        """Bytes this rank handed to the collectives, in total."""
        return sum(size for _, size in self.calls)


_counters: List[CollectiveCount] = []


@contextmanager
def collective_counter() -> Iterator[CollectiveCount]:
    """Count the collectives that this module issues inside the block; blocks nest.

    In a single process the calls that several processes would make are counted too, with the same byte sizes, so that
    the cost of a step can be read off without launching ranks.
    """
    counter = CollectiveCount()
    _counters.append(counter)
    try:
        yield counter
    finally:
        _counters[:] = [other for other in _counters if other is not counter]


def _count(name: str, tensor=None) -> None:
    size = 0 if tensor is None else math.prod(tensor.shape) * tensor.element_size()
    for counter in _counters:
        counter.calls.append((name, size))


def _enter(name: str):
    """`paddle.distributed`, once the process group exists and, over gloo, every rank is about to call it too."""
    import paddle.distributed

    if not paddle.distributed.is_initialized():
        raise RuntimeError(f"rank {rank()} of {world_size()} uses a collective before the process group exists; "
                           "call passl.distributed.initialize(device) first")
    wait_for_ranks(name)
    return paddle.distributed


# Set by a running watchdog: called before each collective with its name, it notes that this rank has come to it and,
# over gloo, waits until all ranks are there.
_gate: Optional[Callable[[str], None]] = None


def set_gate(gate: Optional[Callable[[str], None]]) -> None:
    """Call `gate(name)` before every collective of this process; None removes it. For the watchdog."""
    global _gate
    _gate = gate


def wait_for_ranks(name: str) -> None:
    """Tell the watchdog that this rank has come here and, over gloo, wait until every rank has.

    gloo gives up 30 s after the first rank has entered a collective and that limit cannot be set, so a rank that is
    late (evaluation, a slow disk) would end the job. Under a watchdog the wait happens here instead, for as long as
    its `collective_timeout` allows. NCCL waits by itself, without end: there the call only counts, and the watchdog
    compares the counts. Without a watchdog this does nothing.
    """
    if _gate is not None:
        _gate(name)


def _members(group) -> int:
    return world_size() if group is None else group.nranks


def all_reduce(tensor, op: str = "sum", group=None):
    """Combine `tensor` over the ranks element by element; every rank gets the same new tensor.

    Shape and dtype as given, equal on all ranks. `op` is sum, max or min. float16 and bfloat16 are combined in float32
    and rounded once. Not differentiable. ValueError for another `op`.
    """
    if op not in ("sum", "max", "min"):
        raise UserError(f"all_reduce: op is {op!r}; choose sum, max or min")
    import paddle

    _count("all_reduce", tensor)
    if 0 in tensor.shape:
        return tensor.detach()
    result = tensor.detach().contiguous().clone()
    if _members(group) == 1:
        return result
    distributed = _enter("all_reduce")
    wide = {paddle.float16: "float32", paddle.bfloat16: "float32", paddle.bool: "int32"}.get(result.dtype)
    if wide is not None:
        result = result.astype(wide)
    distributed.all_reduce(result, op=getattr(distributed.ReduceOp, op.upper()), group=group)
    return result if wide is None else result.astype(tensor.dtype)


def all_gather(tensor, group=None):
    """The tensors of all ranks, stacked in rank order: [...] on each rank to [world, ...] on every rank.

    Shape and dtype must be equal on all ranks; see `all_gather_rows` for ranks that hold unequal numbers of rows.
    """
    import paddle

    _count("all_gather", tensor)
    own = tensor.detach().contiguous()
    if _members(group) == 1:
        return own.unsqueeze(0)
    if 0 in tensor.shape:
        return paddle.zeros([_members(group)] + list(tensor.shape), dtype=tensor.dtype)
    distributed = _enter("all_gather")
    gathered: List[Any] = []
    distributed.all_gather(gathered, own, group=group)
    return paddle.stack(gathered)


def all_gather_rows(tensor, group=None):
    """Concatenate the rows of all ranks in rank order: [n_r, ...] to [sum of n_r, ...]; n_r may differ and be 0.

    Two collectives: the row counts, then the rows padded to the largest count.
    """
    import paddle

    counts = all_gather(paddle.to_tensor([tensor.shape[0]], dtype="int64"), group).flatten().tolist()
    longest = max(counts)
    rows = tensor.detach()
    if longest == 0:
        return rows
    if rows.shape[0] < longest:
        padding = paddle.zeros([longest - rows.shape[0]] + list(rows.shape[1:]), dtype=rows.dtype)
        rows = paddle.concat([rows, padding])
    gathered = all_gather(rows, group)
    return paddle.concat([gathered[index, :count] for index, count in enumerate(counts) if count])


def broadcast(tensor, source: int = 0, group=None):
    """The tensor of rank `source` on every rank, as a new tensor; shape and dtype must be equal on all ranks."""
    _count("broadcast", tensor)
    if 0 in tensor.shape:
        return tensor.detach()
    result = tensor.detach().contiguous().clone()
    if _members(group) > 1:
        _enter("broadcast").broadcast(result, src=source, group=group)
    return result


def barrier() -> None:
    """Wait until every rank has reached this line."""
    _count("barrier")
    if world_size() > 1:
        _enter("barrier").barrier()


def gather_objects(value: Any) -> List[Any]:
    """One JSON value (None, bool, number, string, list, dict) of every rank, in rank order, on every rank."""
    import paddle

    encoded = paddle.to_tensor(list(json.dumps(value).encode()), dtype="uint8")
    lengths = all_gather(paddle.to_tensor([encoded.shape[0]], dtype="int64")).flatten().tolist()
    padding = paddle.zeros([max(lengths) - encoded.shape[0]], dtype="uint8")
    gathered = all_gather(paddle.concat([encoded, padding])).numpy()
    return [json.loads(row[:length].tobytes().decode()) for row, length in zip(gathered, lengths)]


def all_ok(ok: bool) -> bool:
    """True when `ok` holds on every rank; one collective of 4 bytes."""
    import paddle

    return bool(all_reduce(paddle.to_tensor([int(ok)], dtype="int32"), "min").item())


class JointFailure(UserError):
    """A failure that every rank raises at the same point, so that none has to be told of it by the others."""


class RankFailure(JointFailure):
    """A step failed on some ranks; raised on all of them. `errors` maps the failed ranks to their messages."""

    def __init__(self, what: str, errors):
        self.what, self.errors = what, dict(errors)
        lines = [f"  rank {number}: {message}" for number, message in sorted(self.errors.items())]
        super().__init__("\n".join([f"{what} failed on rank {', '.join(map(str, sorted(self.errors)))}"] + lines))

    def __reduce__(self):
        return type(self), (self.what, self.errors)


def fail_together(what: str, error: Optional[object] = None) -> None:
    """Agree on whether `what` worked on every rank: pass the error (exception or text) of this rank, or None.

    Returns on all ranks when no rank reports an error and raises `RankFailure` on all ranks otherwise, so that no rank
    goes on to wait for one that has given up. One collective when all is well, three when not. `what` is a phrase
    such as "writing the checkpoint".
    """
    if all_ok(error is None):
        return
    text = None if error is None else (str(error) or type(error).__name__)
    errors = {number: message for number, message in enumerate(gather_objects(text)) if message is not None}
    raise RankFailure(what, errors) from (error if isinstance(error, BaseException) else None)


@contextmanager
def together(what: str, *expected: Type[Exception]) -> Iterator[None]:
    """A block that fails on all ranks, by `fail_together`, when it raises one of the `expected` errors on any of them.

    Example:
        >>> with distributed.together("writing the checkpoint", OSError):
        ...     path.write_bytes(data)
    """
    error: Optional[Exception] = None
    try:
        yield
    except expected as failure:
        error = failure
    fail_together(what, error)
