"""SwAV over several real processes: the original's two-rank run, and assignments joint over all ranks."""
from __future__ import annotations

import numpy as np
import paddle
import pytest

from passl import distributed
from passl.clustering.sinkhorn import sinkhorn
from passl.methods.base import RunFacts
from passl.methods.swav import SwAV
from tests.distributed.ranks import run_ranks
from tests.golden.networks import load
from tests.methods.trajectory import check_final, check_losses, run

GOLDEN = {"float64": "swav_small_w2_s0_fp64.json", "float32": "swav_small_w2_s0.json"}


# ------------------------------------------------------------------------------------------ the original's run
def follow():
    """The golden runs on this rank: gradients averaged, batch norm not synchronised, as the original was run."""
    result = {}
    for dtype, name in GOLDEN.items():
        losses, final, method = run(load(name)["case"], dtype, distributed.rank(), distributed.world_size(),
                                    distributed.wrap)
        result[f"{dtype}/losses"] = losses
        result[f"{dtype}/queue norm"] = np.linalg.norm(method.queue.entries.numpy())
        result.update({f"{dtype}/final/{key}": value for key, value in final.items()})
    return result


@pytest.mark.dist
@pytest.mark.slow
def test_two_ranks_follow_the_original_at_every_step(tmp_path):
    runs = run_ranks(follow, 2, tmp_path, timeout=600)
    for dtype, name in GOLDEN.items():
        golden, finals = load(name), []
        for done in runs:
            check_losses(done.result[f"{dtype}/losses"], golden["losses_per_rank"][done.rank], name)
            finals.append({key.split("final/")[1]: value for key, value in done.result.items()
                           if key.startswith(f"{dtype}/final/")})
        assert runs[0].result[f"{dtype}/queue norm"] == pytest.approx(golden["queue_norm"], abs=1e-6)
        check_final(finals[0], golden, name)
        for key, value in finals[0].items():
            if "running" not in key:  # batch statistics are each rank's own here; weights never are
                np.testing.assert_array_equal(value, finals[1][key], err_msg=key)


# ------------------------------------------------------------------------------------------ joint assignment
CROPS, DIMENSION, PROTOTYPES = 2, 8, 12
ROWS = {2: [6, 6], 3: [4, 4, 4], 4: [3, 3, 3, 3]}
UNEQUAL = {2: [7, 2], 3: [5, 1, 4], 4: [2, 6, 1, 3]}


def unit(shape, seed):
    values = np.random.RandomState(seed).standard_normal(shape).astype("float32")
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def method_for(batch, world_size, queue):
    built = SwAV({"type": "resnet18", "base_channels": 4, "output_dim": DIMENSION, "nmb_prototypes": PROTOTYPES},
                 queue_length=queue, epoch_queue_starts=0, run=RunFacts(batch, world_size))
    built.model.score_heads()[0].weight.set_value(unit([PROTOTYPES, DIMENSION], 7).T)
    return built


def assignments(steps, batch, world_size, queue, share):
    """Targets of the last of `steps` steps; `share` picks a rank's rows out of the joined batch."""
    built = method_for(batch, world_size, queue)
    for step in range(steps):
        embedding = paddle.to_tensor(unit([CROPS, share[-1], DIMENSION], 100 + step)[:, share[0]:share[1]])
        with distributed.collective_counter() as count:
            targets, _ = built.assign(embedding, built.model.scores(embedding))
    return targets.numpy(), count.calls


def assign_here():
    rank, world_size = distributed.rank(), distributed.world_size()
    result = {}
    rows = ROWS[world_size]
    share = (sum(rows[:rank]), sum(rows[:rank + 1]), sum(rows))
    for queue in (0, 2 * sum(rows)):
        result[f"queue {queue}"], calls = assignments(3, rows[0], world_size, queue, share)
        result[f"names {queue}"] = [name for name, _ in calls]
        result[f"bytes {queue}"] = [size for _, size in calls]
    rows = UNEQUAL[world_size]
    start = sum(rows[:rank])
    scores = unit([CROPS, sum(rows), DIMENSION], 3)[:, start:start + rows[rank]] @ unit([PROTOTYPES, DIMENSION], 7).T
    result["unequal"] = sinkhorn(paddle.to_tensor(scores)).soft.numpy()
    return result


@pytest.mark.dist
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_joint_assignment_equals_one_process(tmp_path, world_size):
    runs = run_ranks(assign_here, world_size, tmp_path, timeout=300)
    total = sum(ROWS[world_size])
    expected = {f"queue {queue}": assignments(3, total, 1, queue, (0, total, total))[0] for queue in (0, 2 * total)}
    assert abs(expected["queue 0"] - expected[f"queue {2 * total}"]).max() > 1e-3  # the queue did join
    scores = unit([CROPS, sum(UNEQUAL[world_size]), DIMENSION], 3) @ unit([PROTOTYPES, DIMENSION], 7).T
    expected["unequal"] = sinkhorn(paddle.to_tensor(scores)).soft.numpy()
    for key, one_process in expected.items():
        joined = np.concatenate([done.result[key] for done in runs], axis=1)
        np.testing.assert_allclose(joined, one_process, atol=2e-6, err_msg=key)  # one rounding of the scores: 5e-7
        np.testing.assert_array_equal(joined.argmax(axis=-1), one_process.argmax(axis=-1), err_msg=key)
    for done in runs:  # both assignment crops share each collective; 4 bytes a crop and prototype
        for queue in (0, 2 * total):
            assert done.result[f"names {queue}"].tolist() == ["all_gather", "all_reduce", "all_reduce"]
            assert done.result[f"bytes {queue}"].tolist() == [CROPS * PROTOTYPES * 4] * 3
