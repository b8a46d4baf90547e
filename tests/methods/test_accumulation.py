"""A step split into micro-batches equals the whole batch: targets, loss, gradients (batch norm in eval mode)."""
import numpy as np
import paddle
import pytest

from passl.methods.base import RunFacts
from passl.methods.swav import SwAV


def method():
    paddle.seed(1)
    built = SwAV({"type": "resnet18", "normalize": True, "hidden_mlp": 8, "output_dim": 6, "nmb_prototypes": 7,
                  "stem": "small", "base_channels": 4},
                 queue_length=8, epoch_queue_starts=0, run=RunFacts(batch_size=8))
    built.model.eval()  # batch statistics depend on the split; everything else must not
    built.on_epoch_start(0)
    return built


def crops(step):
    return [np.random.RandomState(10 * step + k).randn(8, 3, 16, 16).astype("float32") for k in range(3)]


def gradients_after_two_steps(parts):
    run = method()
    for step in range(2):  # the second step uses the queue that the first one filled
        run.model.clear_gradients()
        size = 8 // parts
        batches = [{"crops": [paddle.to_tensor(crop[start:start + size]) for crop in crops(step)]}
                   for start in range(0, 8, size)]
        losses = []
        for batch, plan in zip(batches, run.plan(batches)):
            loss, statistics, _ = run.training_step(batch, plan)
            (loss / parts).backward()
            losses.append(float(loss) / parts)
    gradients = {name: p.grad.numpy() for name, p in run.model.named_parameters() if p.grad is not None}
    return sum(losses), gradients, run.queue.entries.numpy(), float(statistics["target_entropy"])


@pytest.mark.parametrize("parts", [2, 4])
def test_equals_the_whole_batch(parts):
    whole, split = gradients_after_two_steps(1), gradients_after_two_steps(parts)
    assert split[0] == pytest.approx(whole[0], abs=1e-5) and split[3] == pytest.approx(whole[3], abs=1e-5)
    np.testing.assert_allclose(split[2], whole[2], atol=1e-6)
    assert whole[1].keys() == split[1].keys()
    for name, value in whole[1].items():
        np.testing.assert_allclose(split[1][name], value, atol=1e-5, err_msg=name)
