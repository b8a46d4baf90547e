"""What SwAV says before the first step about a queue or a release of prototypes behind the end of the run."""
from passl.methods.base import RunFacts
from passl.methods.swav import SwAV


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
