"""SwAV against the PyTorch original: whole trajectories, and the parts of the loss."""
import numpy as np
import paddle
import pytest

from passl.clustering.sinkhorn import sinkhorn
from passl.methods.swav import assignment_statistics, swapped_loss
from tests.golden.networks import load
from tests.methods.trajectory import check_final, check_losses, run

SMALL = ["swav_small_w1_s0", "swav_small_noqueue_w1_s0"]


@pytest.mark.parametrize("name", [*SMALL, pytest.param("swav_rn50_w1_s0", marks=pytest.mark.slow)])
def test_float64_trajectory_equals_reference(name):
    golden = load(name := name + "_fp64.json")
    losses, final, method = run(golden["case"], "float64")
    check_losses(losses, golden["losses_per_rank"][0], name)
    check_final(final, golden, name)
    if method.queue is not None:
        assert np.linalg.norm(method.queue.entries.numpy()) == pytest.approx(golden["queue_norm"], abs=1e-7)


@pytest.mark.parametrize("name", [*SMALL, pytest.param("swav_rn50_w1_s0", marks=pytest.mark.slow)])
def test_float32_trajectory_equals_reference(name):
    golden = load(name := name + ".json")
    losses, final, _ = run(golden["case"], "float32")
    check_losses(losses, golden["losses_per_rank"][0], name)
    check_final(final, golden, name)


def scores(batch, prototypes, offset):
    rows, columns = np.arange(batch)[:, None], np.arange(prototypes)[None]
    return (0.9 * np.sin(1.0 + offset + 0.7 * rows + 1.3 * columns)).astype("float32")


@pytest.mark.parametrize("case", [c for c in load("reference_functions.json")["swapped_loss_B4_K3"]
                                  if not c["reverse_unmix"]])
def test_swapped_loss_equals_reference(case):
    stacked = paddle.to_tensor(np.stack([scores(4, 3, offset) for offset in case["crop_offsets"]]))
    targets = sinkhorn(paddle.stack([stacked[crop] for crop in case["crops_for_assign"]]),
                       case.get("epsilon", 0.05), 3).soft
    loss = swapped_loss(stacked, targets, case["crops_for_assign"])
    assert float(loss) == pytest.approx(case["loss"], abs=6e-6)  # one rounding of the scores moves it by 1.4e-6


def test_statistics_are_means_over_images_and_crops():
    """Two crops of two images: entropies ln 4, ln 2, 0 and 0; three and two of four prototypes are used."""
    targets = paddle.to_tensor([[[0.25] * 4, [0.5, 0.5, 0, 0]], [[1.0, 0, 0, 0], [0, 0, 0, 1.0]]])
    found = assignment_statistics(targets, paddle.to_tensor([[1, 1, 1, 0], [1, 0, 0, 1]]), paddle.to_tensor([0.5, 0.1]))
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {"target_entropy": 3 * np.log(2) / 4, "prototypes_used": 5 / 8, "marginal_error": 0.3}, rel=1e-6)
