"""A tiny data set and network on which every method of the family runs the same steps, on one process or several."""
from contextlib import contextmanager
from functools import partial

import numpy as np
import paddle

from passl import distributed
from passl.methods import unmix
from passl.methods.base import RunFacts
from passl.models.heads import HEAD_KEYS
from passl.registry import METHODS

IMAGES, GLOBAL_BATCH, STEPS, EPOCHS = 27, 12, 2, 3  # three images of an epoch are dropped
SIZES = (16, 16, 12, 12)
MODELS = {
    "SwAV": {"nmb_prototypes": 6, "queue_length": 12, "epoch_queue_starts": 1, "freeze_prototypes_niters": 1},
    "DeepClusterV2": {"nmb_prototypes": [4, 5, 6]},
    "SeLaV2": {"nmb_prototypes": [4, 5], "freeze_prototypes_niters": 1},
    "SeLaV2 soft": {"nmb_prototypes": [4, 5], "assignment": "soft", "freeze_prototypes_niters": 1},
    "SeLa": {"nmb_prototypes": [4, 5], "label_optimizations": 3, "exponent": 10.0},
    "UnMixSwAV": {"nmb_prototypes": 6, "queue_length": 12, "epoch_queue_starts": 1, "freeze_prototypes_niters": 1},
    "UnMixSwAV reference": {"nmb_prototypes": 6, "unmix_compat": "reference", "unmix_prob": 0.0},
}


def build(model, world_size=1, **overrides):
    options = {**MODELS[model], **overrides}
    backbone = {"type": "resnet10", "stem": "small", "base_channels": 4, "hidden_mlp": 8, "output_dim": 8,
                "normalize": True, "nmb_prototypes": options.pop("nmb_prototypes")}
    if not METHODS.get(model.split()[0]).has_embedding:
        backbone = {key: value for key, value in backbone.items() if key not in HEAD_KEYS}
    paddle.seed(0)
    return METHODS.build({"name": model.split()[0], "backbone": backbone, **options},
                         run=RunFacts(batch_size=GLOBAL_BATCH // world_size, world_size=world_size,
                                      iterations_per_epoch=STEPS, epochs=EPOCHS, crop_count=len(SIZES),
                                      dataset_size=IMAGES, seed=5))


def crops(epoch, indices, dtype="float64"):
    """Crops of images: smooth patterns that differ by image, with noise that differs by epoch and crop."""
    batch = []
    for position, size in enumerate(SIZES):
        grid = np.mgrid[0:size, 0:size] / size
        rows = []
        for index in indices:
            waves = np.random.RandomState(index).uniform(-6, 6, (3, 2))
            noise = np.random.RandomState([epoch, position, index]).standard_normal((3, size, size))
            rows.append(np.sin(np.tensordot(waves, grid, 1)) + 0.3 * noise)
        batch.append(paddle.to_tensor(np.array(rows).astype(dtype)))
    return batch


def batches(epoch, rank=0, world_size=1, dtype="float64"):
    """This rank's batches of an epoch; those of all ranks laid end to end are what one process gets."""
    order = np.random.RandomState(epoch).permutation(IMAGES)
    size = GLOBAL_BATCH // world_size
    for step in range(STEPS):
        start = step * GLOBAL_BATCH + rank * size
        indices = order[start:start + size]
        yield {"crops": crops(epoch, indices, dtype), "index": paddle.to_tensor(indices)}


@contextmanager
def mixing_within(rows):
    """Un-Mix pairs images of one rank; one process that stands for several pairs them within blocks of `rows`."""
    whole = unmix.partners
    unmix.partners = lambda values: paddle.concat([whole(values[start:start + rows])
                                                   for start in range(0, values.shape[0], rows)])
    try:
        yield
    finally:
        unmix.partners = whole


def train(model, mixing_ranks=1):
    """{losses, labels or targets, gradients of every step, final weights} of this rank, in float64."""
    rank, world_size = distributed.rank(), distributed.world_size()
    paddle.set_default_dtype("float64")
    try:
        method = build(model, world_size)
    finally:
        paddle.set_default_dtype("float32")
    distributed.convert_batch_norm(method.model, "global")
    method.distribute(distributed.wrap)
    method.train()
    optimizer = paddle.optimizer.Momentum(0.2, parameters=[p for _, p in method.trainable_parameters()])
    losses, labels, gradients, step = [], [], [], 0
    with mixing_within(GLOBAL_BATCH // world_size // mixing_ranks):
        for epoch in range(EPOCHS):
            for batch in batches(epoch, rank, world_size):
                number = method.due_pass(step)
                if number:
                    method.on_pass(step, partial(batches, EPOCHS + step if number > 1 else 0, rank, world_size))
                    labels.append(method.labels.numpy())
                if step == epoch * STEPS:
                    method.on_epoch_start(epoch)
                    if hasattr(method, "labels"):
                        labels.append(method.labels.numpy())
                method.before_step(step)
                loss, *_ = method.training_step(batch, method.plan([batch])[0])
                loss.backward()
                method.after_backward(step)
                gradients.append(np.concatenate([p.grad.numpy().ravel() for _, p in method.trainable_parameters()
                                                 if p.grad is not None]))
                optimizer.step()
                optimizer.clear_grad(set_to_zero=False)
                method.after_step(step)
                losses.append(float(loss))
                step += 1
    result = {"losses": np.array(losses), "labels": np.array(labels)}
    result.update({f"gradient {number}": value for number, value in enumerate(gradients)})
    result.update({name: value.numpy() for name, value in method.model.named_parameters()})
    return result
