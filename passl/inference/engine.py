"""The one forward loop: images of any kind through a network, in evaluation mode and without gradient.

Whatever embeds, assigns, predicts, measures, validates or recalibrates gets its batches from `Engine`.
"""
from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import paddle

from passl import distributed
from passl.data.datasets import LabelledDataset
from passl.data.loader import Loader
from passl.data.sampler import DistributedBatchSampler
from passl.data.sources import ImageFiles
from passl.errors import NotFinite, UserError
from passl.inference.backends import cpu_threads, require_choice
from passl.inference.card import card_of
from passl.inference.forward import Forward
from passl.inference.get_model import get_model, list_models
from passl.inference.images import Images, batches, collect, find_images
from passl.inference.pace import Pace

Model = Union[paddle.nn.Layer, str, "os.PathLike[str]"]  # a network, or what `as_model` takes
Outputs = Union[Sequence[str], Callable[[paddle.Tensor], Any]]
FEW_IMAGES = 64  # for which worker processes do not pay
MOST_WORKERS = 8  # by default; each holds a copy of what it decodes
Prepared = Tuple[paddle.Tensor, np.ndarray, np.ndarray, np.ndarray]  # images, and indices, labels, valid of `Batch`


class Batch(NamedTuple):
    """One batch of a pass.

    start: number of its first image in this process's pass. output: {name: tensor [b, ...]}, or what the function gave.
    indices int64 [b]: the images in the data. labels int64 [b]: their classes, -1 for none. valid bool [b]: false for
    rows that only pad the batch or stand in for a file that cannot be read.
    """

    start: int
    output: Any
    indices: np.ndarray
    labels: np.ndarray
    valid: np.ndarray

    def array(self, name: str) -> np.ndarray:
        """Output `name` as float32 [b, ...]; rows of images that could not be read are NaN."""
        rows = self.output[name].astype("float32").numpy()
        rows[~self.valid] = np.nan
        return rows


class BatchRecord(NamedTuple):
    """One batch of a pass over evaluation data, for the log; times in seconds, images over all ranks.

    values: means of this rank up to here, as scalar tensors (the loss of a validation).
    """

    iteration: int
    iterations: int
    images: int
    step_time: float
    data_time: float
    values: Mapping[str, Any]


@contextmanager
def evaluation_mode(network: paddle.nn.Layer) -> Iterator[paddle.nn.Layer]:
    """Every layer in evaluation mode inside the block; each layer's own mode comes back after it."""
    modes = [(layer, layer.training) for layer in network.sublayers(include_self=True)]
    network.eval()
    try:
        yield network
    finally:
        for layer, training in modes:
            layer.training = training


def as_model(model: Model) -> paddle.nn.Layer:
    """`model` itself, or the network with trained weights that a name or path stands for: a run's folder, a file."""
    if not isinstance(model, (str, os.PathLike)):
        return model
    name = os.fspath(model)
    return get_model(name, pretrained=True if name in list_models() else None)


class Engine:
    """A network to look at images with; nothing of it or of its modes is changed.

    network: from `get_model`, or what it takes to find one; any layer will do for "features". Images are prepared as
        its card says.
    batch_size: images in one forward pass. workers: processes that decode files, 0 decodes in this one; None: one a
        core, and none for few images.
    skip_unreadable: a file that cannot be decoded is marked (`Batch.valid`) instead of ending the pass with its name.
    backend: what runs the network on a CPU (docs/evaluation.md). "auto": onnxruntime or OpenVINO where they are
        installed, else Paddle Inference; Paddle's eager kernels for a pass too short to be worth the start of another,
        and on GPUs. UserError for one that is not installed.

    Results do not depend on workers, and on batch_size and backend only by rounding.

    Example:
        >>> import numpy, passl
        >>> from passl.inference.engine import Engine
        >>> engine = Engine(passl.get_model("resnet10", base_channels=4, stem="small"), backend="eager")
        >>> engine.run(numpy.zeros([2, 3, 32, 32], "float32"), outputs=("features",))["features"].shape
        (2, 32)
    """

    def __init__(self, network: Model, batch_size: int = 32, workers: Optional[int] = None,
                 skip_unreadable: bool = False, backend: str = "auto"):
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; it must be at least 1")
        require_choice(backend)
        self.network = as_model(network)
        self.batch_size, self.workers, self.skip_unreadable = batch_size, workers, skip_unreadable
        self.backend = backend
        self.used = ""  # what ran the last batch, with versions

    def run(self, images: Any, outputs: Sequence[str] = ("features",)) -> Dict[str, np.ndarray]:
        """Outputs of all images by name, float32 [N, ...] in the order of the images (see `stream`)."""
        parts: Dict[str, List[np.ndarray]] = {name: [] for name in outputs}
        for batch in self.stream(images, outputs):
            for name, rows in parts.items():
                rows.append(batch.array(name))
        return {name: np.concatenate(rows) for name, rows in parts.items()}

    def stream(self, source: Any, outputs: Outputs = ("features",), first_batch: int = 0,
               on_batch: Optional[Callable[[BatchRecord], None]] = None, values: Optional[Mapping[str, Any]] = None,
               finite: bool = True) -> Iterator[Batch]:
        """The outputs of all images, batch by batch, in order.

        source: pictures as people have them (`collect`), a `ImageFiles` of files, or a `Loader`, which brings its own
            batches, transforms, workers and share of the images.
        outputs: names of `Network.outputs`; or a function of the normalised images, float32 [B, 3, H, W].
        first_batch: batches to leave out at the beginning, of files and loaders.
        on_batch: is told of every batch of a loader when it has been dealt with, with `values` as they are then.
        finite: NotFinite as soon as an output holds NaN or infinity: what is made of it looks like answers.
        DataError names a file that cannot be read; UserError says what the network does not give.
        """
        given, loader = self._opened(source)
        start = 0 if loader is None else first_batch * loader.batch_size
        total = len(given.items) if loader is None else (len(loader) - first_batch) * loader.batch_size
        function = self._function(outputs, total)
        prepared = self._collected(given) if loader is None else _loaded(loader, first_batch)
        pace = Pace(total, bar=on_batch is None)
        try:
            with evaluation_mode(self.network):
                mark = time.perf_counter()
                for iteration, (images, indices, labels, valid) in enumerate(prepared, first_batch):
                    data_time = time.perf_counter() - mark
                    with paddle.no_grad():  # not around `yield`: whoever leaves early would take it along
                        output = function(images)
                    self.used = str(function) if isinstance(function, Forward) else "eager"
                    if finite:
                        self._require_finite(output)
                    pace.note(len(indices), data_time, time.perf_counter() - mark - data_time)
                    yield Batch(start, output, indices, labels, valid)
                    if on_batch is not None and loader is not None:
                        on_batch(BatchRecord(iteration, len(loader), len(indices) * distributed.world_size(),
                                             time.perf_counter() - mark, data_time, values or {}))
                    start += len(indices)
                    mark = time.perf_counter()
        finally:
            pace.close(function.start_seconds if isinstance(function, Forward) else 0.0)
            if loader is not None and loader is not source:
                loader.close()

    def _function(self, outputs: Outputs, images: int) -> Callable[[paddle.Tensor], Any]:
        if callable(outputs):
            return outputs
        return Forward(self.network, self._live(outputs), outputs, self.backend, images)

    def _live(self, outputs: Sequence[str]) -> Callable[[paddle.Tensor], Dict[str, paddle.Tensor]]:
        if tuple(outputs) == ("features",):
            features = feature_function(self.network)
            return lambda images: {"features": features(images)}
        given = getattr(self.network, "output_heads", ("features",))
        missing = [name for name in outputs if name not in given]
        if missing:
            raise UserError(f"{card_of(self.network).name} gives {', '.join(given)}, not {', '.join(missing)}")
        return lambda images: self.network.outputs(images, outputs)

    def _opened(self, source: Any) -> Tuple[Images, Optional[Loader]]:
        """The loader of files; or None, and pictures that are prepared one by one in this process."""
        nothing = Images([], False)
        if isinstance(source, Loader):
            return nothing, source
        if not isinstance(source, ImageFiles):
            if self.workers or self.skip_unreadable:
                source = find_images(source)
            else:
                given = source if isinstance(source, Images) else collect(source)
                are_files = all(isinstance(item, str) for item in given.items)
                if self.workers == 0 or len(given.items) < FEW_IMAGES or not are_files:
                    return given, None
                source = ImageFiles(given.items)
        transform = list(card_of(self.network).transform)
        dataset = LabelledDataset(source, transform, "skip" if self.skip_unreadable else "error", 0)
        dataset.remedy = "skip_unreadable=True or --skip-unreadable leaves such files out"
        return nothing, Loader(dataset, DistributedBatchSampler(len(source), self.batch_size),
                               num_workers=self.workers_for(len(source)))

    def workers_for(self, images: int) -> int:
        """Processes that decode so many files."""
        if self.workers is not None:
            return self.workers
        return 0 if images < FEW_IMAGES else min(MOST_WORKERS, cpu_threads())

    def _collected(self, given: Images) -> Iterator[Prepared]:
        for start, images in batches(given.items, card_of(self.network).transform, self.batch_size):
            count = len(images)
            yield images, np.arange(start, start + count), np.full(count, -1), np.ones(count, bool)

    def _require_finite(self, output: Any) -> None:
        tensors = output.values() if isinstance(output, dict) else [output]
        if not all(bool(paddle.isfinite(tensor).all()) for tensor in tensors):
            raise NotFinite(f"{card_of(self.network).name} gives NaN or infinity: its weights are damaged or from a "
                            "run that diverged, or a picture given as a float tensor holds such values")


def feature_function(network: Callable) -> Callable[[paddle.Tensor], paddle.Tensor]:
    """What turns images [B, 3, H, W] into features [B, F]: the network's `extract_feat`, else the network itself."""
    return getattr(network, "extract_feat", network)


def _loaded(loader: Loader, first_batch: int) -> Iterator[Prepared]:
    normalize = loader.normalizer
    for batch in loader.epoch(0, start_iteration=first_batch):
        if "image" not in batch:
            raise UserError("features are extracted from single images, and this data set gives several crops of "
                            "each: use ImageFolder with the evaluation transforms")
        yield normalize(paddle.to_tensor(batch["image"])), batch["index"], batch["label"], batch["valid"]
