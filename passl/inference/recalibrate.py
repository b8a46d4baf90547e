"""Batch-norm statistics measured anew, on images of one size."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Optional, Sequence, Union

import paddle

from passl.data.augment.transforms import ImageTransform
from passl.data.sources import ImageFiles
from passl.errors import UserError
from passl.evaluation.recalibration import BatchNormAverage
from passl.files import PathLike
from passl.inference.card import evaluation_transform, run_config, save_run
from passl.inference.engine import Engine, feature_function
from passl.inference.images import find_images


def recalibrate(model: paddle.nn.Layer, images: Union[PathLike, Sequence[PathLike]], folder: Optional[PathLike] = None,
                size: int = 224, count: int = 10000, batch_size: int = 64,
                workers: Optional[int] = None, skip_unreadable: bool = False) -> int:
    """Measure the running statistics of a network from `get_model` on `images`; returns how many were used.

    `model` is changed: its statistics, and its card, which from now on prepares images of `size` pixels. Multi-crop
    pretraining leaves statistics that lean to the small crops; the published results use them as they are.
    count: images to use, spread over all that are given; whole batches only, so that all count alike.
    folder: where passl.pdparams, config.yaml and classes.txt are written, to be opened like a run.
    skip_unreadable: another image takes the place of a damaged file.
    ValueError for less than one batch of images, or a network without batch norm.

    Example:
        >>> import numpy, passl, PIL.Image
        >>> PIL.Image.fromarray(numpy.zeros([32, 32, 3], "uint8")).save("black.png")
        >>> model = passl.get_model("resnet10", base_channels=4, stem="small")
        >>> passl.recalibrate(model, "black.png", size=32, batch_size=1)
        1
    """
    samples = find_images(images)
    step = max(1, len(samples) // count)
    used = ImageFiles([samples.path(index) for index in range(0, len(samples), step)][:count])
    if len(used) < batch_size:
        raise UserError(f"{len(used)} images make no whole batch of {batch_size}, and only whole batches are "
                        f"measured: give more images or a batch size (--batch-size) of {len(used)}")
    mean, std = ImageTransform(list(model.card.transform)).normalization
    model.card.transform = evaluation_transform(size, mean, std)
    measured = measure_batch_norm(Engine(model, batch_size, workers, skip_unreadable), used)
    if folder is not None:
        save_run(Path(folder).expanduser(), model, run_config(Path(model.card.source)) if model.card.source else {})
    return measured


def measure_batch_norm(engine: Engine, images: Any) -> int:
    """Set the trunk's running statistics to their average over the whole batches of `images`, which the engine's source
    may be of any kind; returns how many images were used. ValueError when there is no whole batch."""

    def observe(prepared: paddle.Tensor) -> None:
        if len(prepared) == engine.batch_size:  # batches count alike, so a short one must not
            average.observe(prepared)

    with BatchNormAverage(engine.network, feature_function(engine.network)) as average:
        for _ in engine.stream(images, observe, finite=False):
            pass
    return average.images
