"""Schedules against the arrays of the reference and against closed forms."""
import math

import pytest

from passl.optim.schedules import MultiStepDecay, TimmCosine
from tests.golden.networks import load


@pytest.mark.parametrize("case", load("reference_functions.json")["lr_schedule"], ids=lambda case: case["name"])
def test_cosine_with_warmup_equals_reference(case):
    schedule = TimmCosine(case["base"], case["final"], case["warmup"], case["start"], epochs=case["epochs"],
                          iterations_per_epoch=case["iters_per_epoch"])
    for step, expected in case["samples"].items():
        assert schedule(int(step)) == pytest.approx(expected, rel=1e-9)


def test_cosine_per_epoch_is_constant_within_an_epoch():
    schedule = TimmCosine(0.3, decay_unit="epoch", epochs=100, iterations_per_epoch=7)
    for epoch in (0, 1, 50, 99):
        expected = 0.15 * (1 + math.cos(math.pi * epoch / 100))
        assert [schedule(epoch * 7 + i) for i in range(7)] == pytest.approx([expected] * 7)


def test_multi_step_counts_epochs_whatever_the_unit():
    for unit in ("epoch", "step"):
        schedule = MultiStepDecay(0.02, [12, 16], 0.2, decay_unit=unit, epochs=20, iterations_per_epoch=5)
        assert [schedule(e * 5 + 4) for e in (11, 12, 16)] == pytest.approx([0.02, 0.004, 0.0008])
        assert schedule(12 * 5) == pytest.approx(0.004)


def test_warmup_longer_than_training_is_refused():
    with pytest.raises(ValueError, match="warmup_epoch 10 is longer than Global.epochs 5"):
        TimmCosine(0.1, warmup_epoch=10, epochs=5, iterations_per_epoch=3)
