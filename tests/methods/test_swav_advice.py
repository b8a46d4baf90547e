"""What SwAV says before the first step about a queue or a release of prototypes behind the end of the run."""
import numpy as np
import paddle
import pytest

from passl.clustering import sinkhorn
from passl.methods.base import RunFacts
from passl.methods.swav import SwAV
from passl.registry import METHODS


def advice(epochs=20, queue=0, start=15, **freeze):
    """What a run of `epochs` epochs of 10 steps of 64 images is told before its first step."""
    run = RunFacts(batch_size=64, iterations_per_epoch=10, epochs=epochs, dataset_size=640)
    method = SwAV({"type": "resnet10", "base_channels": 4, "hidden_mlp": 8, "output_dim": 8, "nmb_prototypes": 6},
                  queue_length=queue, epoch_queue_starts=start, run=run, **(freeze or {"freeze_prototypes_niters": 0}))
    return [str(finding) for finding in method.advice(run)]


def test_queue_that_never_joins_is_told_before_step_1():
    assert advice(queue=640) == advice(queue=640, epochs=17) == advice(epochs=3) == []
    never, = advice(queue=640, epochs=15)
    assert "never used: it starts in epoch 15, counted from 0 (Model.epoch_queue_starts), and the run has 15" in never
    assert "-o Model.epoch_queue_starts=1, " in never
    slow, = advice(queue=64 * 60)
    assert "never gets full and is not used before: that would take 210 steps, 60 of them from epoch 15 on" in slow


def test_a_remedy_that_is_set_already_or_does_not_help_is_not_named():
    slow, = advice(queue=64 * 60, epochs=4, start=0)
    assert "never gets full" in slow and "Model.epoch_queue_starts=" not in slow and "start it earlier" not in slow
    assert slow.endswith("-o Model.queue_length=0")
    never, = advice(queue=64 * 60, epochs=5, start=15)  # from epoch 0 on it would not get full, either
    assert "never used" in never and never.endswith("do without: -o Model.queue_length=0")
    late, = advice(queue=64 * 190, start=2)  # a tenth of the run is what would be named
    assert "never gets full" in late and late.endswith("or do without: -o Model.queue_length=0")


def single(model="SwAV", batch=1, ranks=1, start=0, prototypes=6, **options):
    """What a run of 20 epochs of 10 steps says of its batch."""
    run = RunFacts(batch_size=batch, world_size=ranks, iterations_per_epoch=10, epochs=20, crop_count=2,
                   dataset_size=640)
    backbone = {"type": "resnet10", "base_channels": 4, "hidden_mlp": 8, "output_dim": 8, "nmb_prototypes": prototypes}
    method = METHODS.build({"name": model, "epoch_queue_starts": start, "freeze_prototypes_niters": 0,
                            "backbone": backbone, **options}, run=run)
    return method.advice(run)


@pytest.mark.parametrize("model", ["SwAV", "UnMixSwAV"])
def test_an_assignment_of_one_image_is_refused(model):
    for options in ({}, {"queue_length": 100, "start": 30}, {"queue_length": 150, "start": 6}):
        refusal = single(model, **options)[0]
        assert refusal.level == "refusal" and "every target is uniform" in str(refusal)
        assert "sampler.batch_size=64" in str(refusal)
    warned, = single(model, queue_length=20, start=3)
    assert warned.level == "warning" and "uniform in the 50 steps before the queue joins" in str(warned)
    assert "-o Model.epoch_queue_starts=0, " in str(warned)
    assert "epoch_queue_starts" not in str(single(model, queue_length=20)[0])
    assert single("SwAV", ranks=2) == single(model, batch=2) == []


def test_targets_of_one_image_are_uniform_indeed():
    scores = paddle.to_tensor([[0.9, -0.3, 0.1]])
    np.testing.assert_allclose(sinkhorn(scores).soft.numpy(), 1 / 3, atol=1e-6)
    assert sinkhorn(paddle.concat([scores, -scores])).soft.numpy().max() > 0.5


def test_un_mix_needs_two_images_on_a_process():
    refusal, = single("UnMixSwAV", ranks=2)
    assert refusal.level == "refusal" and "mixes the images of a process" in str(refusal)


def test_a_queue_that_never_joins_does_not_count_as_images_of_an_assignment():
    spread, never = single(batch=2, queue_length=64, start=30, prototypes=30)
    assert "spreads 2 images over 30 prototypes" in str(spread) and "never used" in str(never)
    assert single(batch=2, queue_length=64, prototypes=30) == []


def test_queue_that_is_rounded_is_told():
    message, = advice(queue=700)
    assert "Model.queue_length 700 is rounded down to 640, a multiple of the global batch of 64" in message


def test_a_freeze_of_several_epochs_is_told_unless_meant():
    assert advice(freeze_prototypes_niters=15) == advice(freeze_prototypes_epochs=3) == []
    message, = advice(freeze_prototypes_niters=25)
    assert "stay frozen for 25 steps" in message and "2.5 epochs of this data and batch" in message


def test_prototypes_never_released_are_told_unless_meant():
    message, = advice(freeze_prototypes_niters=200)
    assert "never released: Model.freeze_prototypes_niters is 200 and the run has 200 steps" in message
    assert message.endswith("-o Model.freeze_prototypes_epochs=2")
    assert advice(freeze_prototypes_epochs=20) == []
