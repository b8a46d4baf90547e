"""How far roundings move a float32 trajectory: the scale of its bounds.

Other processors, thread counts and versions of Paddle round otherwise, and training lets such differences grow. So a
float32 run cannot be compared with the reference more closely than with itself, started from weights that differ in
their last bit and rounded otherwise on the way. `python -m tests.golden.sensitivity` runs every float32 trajectory of
this folder so, DRAWS times, and writes the largest deviations into `sensitivity.json`; `bounds` makes the tests' bounds
of them.
"""
import json
import sys
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tests.golden import formula
from tests.machines.rounding import another_rounding, neighbours

FILE = Path(__file__).with_name("sensitivity.json")
DRAWS = 8
FACTOR = 10  # the largest of eight draws is not the largest there is, and the reference has roundings of its own
ROUNDING = 1e-6  # relative; steps on which nothing has grown yet


@contextmanager
def moved_weights(draw):
    """Inside, every initial weight is its neighbour in float32, above or below; draw 0 moves none."""
    original = formula.weight

    def weight(name, *arguments, **options):
        array = original(name, *arguments, **options)
        if not draw or array.dtype != np.float32:
            return array
        return neighbours(array, draw, zlib.crc32(name.encode()))

    formula.weight = weight
    try:
        yield
    finally:
        formula.weight = original


def bounds(name):
    """(absolute bound of every step's loss, relative bound of the final tensors) of a float32 golden file."""
    measured = json.loads(FILE.read_text())[name]
    grown = np.maximum.accumulate(measured["losses"])  # what has grown does not shrink, though a draw may look so
    return FACTOR * grown, FACTOR * measured["final"]


def deviations(name, runs):
    """What `bounds` reads, from the unmoved run and the moved ones: each (losses, {name: final tensor}, labels)."""
    from tests.golden.networks import load

    losses = np.array([run[0] for run in runs])
    scale = ROUNDING * np.abs(losses[0])
    final = 0.0
    for tensor in load(name)["final_norm_mean"]:
        if tensor.endswith("num_batches_tracked"):
            continue
        norms = np.array([np.linalg.norm(run[1][tensor]) for run in runs])
        means = np.array([run[1][tensor].mean() for run in runs])
        final = max(final, (np.abs(norms - norms[0]) / norms[0]).max(),
                    (np.abs(means - means[0]) / (np.abs(means[0]) + norms[0])).max())
    flips = max(int((run[2] != runs[0][2]).sum()) for run in runs)
    return {"losses": [float(f"{value:.2g}") for value in np.maximum(scale, np.abs(losses - losses[0]).max(0))],
            "final": float(f"{final:.2g}"), "labels that changed": flips}


def on_this_rank(name, draw):
    """One float32 run of a golden case, as (losses, final tensors, labels)."""
    from passl import distributed
    from tests.golden.networks import load
    from tests.methods import test_deepcluster_v2, trajectory

    place = distributed.rank(), distributed.world_size(), distributed.wrap
    with moved_weights(draw), another_rounding(draw):
        if name.startswith("deepcluster"):
            found = test_deepcluster_v2.trajectory(name, "float32", *place)
            return found["losses"], found, found["labels"]
        losses, final, _ = trajectory.run(load(name)["case"], "float32", *place)
        return np.array(losses), final, np.zeros(0)


def in_ranks(name):
    """All draws on this rank, flat, for `run_ranks`."""
    result = {}
    for draw in range(DRAWS + 1):
        losses, final, labels = on_this_rank(name, draw)
        result.update({f"{draw}/losses": losses, f"{draw}/labels": labels,
                       **{f"{draw}/final/{key}": value for key, value in final.items()}})
    return result


def measure(name):
    if "_w2_" not in name:
        return deviations(name, [on_this_rank(name, draw) for draw in range(DRAWS + 1)])
    from tempfile import TemporaryDirectory

    from tests.distributed.ranks import run_ranks

    with TemporaryDirectory() as folder:
        ranks = [done.result for done in run_ranks(in_ranks, 2, Path(folder), timeout=7200, name=name)]
    runs = []
    for draw in range(DRAWS + 1):
        final = {key.split("/final/")[1]: value for key, value in ranks[0].items() if key.startswith(f"{draw}/final/")}
        runs.append((np.concatenate([rank[f"{draw}/losses"] for rank in ranks]), final,
                     np.concatenate([rank[f"{draw}/labels"].ravel() for rank in ranks])))
    found = deviations(name, runs)
    found["losses"] = np.array(found["losses"]).reshape(2, -1).max(0).tolist()
    return found


def main(names):
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name in names or sorted(path.name for path in FILE.parent.glob("*_w?_s0*.json") if "fp64" not in path.name):
        known[name] = measure(name)
        print(name, json.dumps(known[name]), flush=True)
        FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
