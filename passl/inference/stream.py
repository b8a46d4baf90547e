"""Many image files through a network: decoded by worker processes, in order, from any position."""
from __future__ import annotations

import hashlib
import os
from typing import Any, Callable, Iterator, List, NamedTuple, Sequence

import numpy as np
import paddle

from passl.data.datasets import LabelledDataset
from passl.data.loader import Loader
from passl.data.sampler import DistributedBatchSampler
from passl.data.sources import IMAGE_EXTENSIONS, ImageFiles, find_image_files
from passl.errors import DataError, NotFinite
from passl.evaluation.extract import evaluation_mode
from passl.inference.card import card_of


class Batch(NamedTuple):
    """start: number of the first image. output: what the function gave. readable: bool [b]."""

    start: int
    output: Any
    readable: np.ndarray


def find_images(places: Sequence[str]) -> ImageFiles:
    """Images named by paths of files, folders and list files, in that order; classes of a single tree are kept."""
    for place in places:
        if not os.path.exists(place):
            raise DataError(f"{place} does not exist (looked from {os.getcwd()}): give image files, folders or list "
                            "files")
    if len(places) == 1 and not _is_image(places[0]):
        return find_image_files(places[0], labelled=False)
    paths: List[str] = []
    for place in places:
        samples = ImageFiles([place]) if _is_image(place) else find_image_files(place, labelled=False)
        paths.extend(samples.path(index) for index in range(len(samples)))
    return ImageFiles(paths)


def digest(samples: ImageFiles) -> str:
    """SHA-256 of paths, file sizes, times of change, labels and class names: whether two lists are the same images."""
    total = hashlib.sha256()
    for index in range(len(samples)):
        path = samples.path(index)
        try:
            state = os.stat(path)
            total.update(f"{state.st_size} {state.st_mtime_ns} ".encode())
        except OSError:
            total.update(b"missing ")  # whoever reads the file reports it, by name
        total.update(os.fsencode(path) + b"\n")
    total.update(samples.labels.tobytes() + "\n".join(samples.classes).encode())
    return total.hexdigest()


def _is_image(place: str) -> bool:
    return os.fspath(place).lower().endswith(IMAGE_EXTENSIONS) and not os.path.isdir(place)


def stream(model, samples: ImageFiles, function: Callable[[paddle.Tensor], Any], batch_size: int, workers: int,
           skip_unreadable: bool = False, first_batch: int = 0) -> Iterator[Batch]:
    """`function` of every image, batch by batch; results do not depend on `workers`.

    function: float32 [B, 3, H, W] -> anything. skip_unreadable: a file that cannot be decoded is marked instead of
    ending the run with its name (DataError); its row holds another image's output. FloatingPointError for outputs that
    are not finite.
    """
    dataset = LabelledDataset(samples, list(card_of(model).transform), "skip" if skip_unreadable else "error", 0)
    loader = Loader(dataset, DistributedBatchSampler(len(samples), batch_size), num_workers=workers)
    normalize = loader.normalizer
    start = first_batch * batch_size
    try:
        with evaluation_mode(model):
            for batch in loader.epoch(0, start_iteration=first_batch):
                output = function(normalize(paddle.to_tensor(batch["image"])))
                require_finite(output, model)
                yield Batch(start, output, batch["valid"])
                start += len(batch["index"])
    except DataError as error:  # the data set speaks of keys of a config, and there is none here
        hint = str(error).replace("dataset.image_errors: skip would leave", "--skip-unreadable leaves")
        raise DataError(hint) from None
    finally:
        loader.close()


def require_finite(output, model) -> None:
    """FloatingPointError when a tensor, or one of a list, is not finite: what is made of it looks like answers."""
    if not all(bool(paddle.isfinite(one).all()) for one in (output if isinstance(output, list) else [output])):
        raise NotFinite(f"{card_of(model).name} gives NaN or infinity: its weights are damaged or from a run "
                        "that diverged, or a picture given as a float tensor holds such values")
