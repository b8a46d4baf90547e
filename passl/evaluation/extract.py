"""Features of a whole data set: one pass in evaluation mode, in the order of the data set, exact over ranks."""
from __future__ import annotations

import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Mapping, NamedTuple, Optional, Tuple

import numpy as np
import paddle

from passl import distributed
from passl.errors import NotFinite, UserError


class Shard(NamedTuple):
    """This rank's part of a data set: features float32 [n, F], labels int64 [n] (-1: none), indices int64 [n]."""

    features: np.ndarray
    labels: np.ndarray
    indices: np.ndarray


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


def watched(loader, on_batch: Optional[Callable[[BatchRecord], None]], values: Mapping[str, Any]) -> Iterator[Dict]:
    """The loader's batches; tells `on_batch` of each when it has been dealt with and `values` are up to date."""
    mark = time.perf_counter()
    for iteration, batch in enumerate(loader.epoch(0)):
        data_time = time.perf_counter() - mark
        yield batch
        if on_batch is not None:
            on_batch(BatchRecord(iteration, len(loader), len(batch["index"]) * distributed.world_size(),
                                 time.perf_counter() - mark, data_time, values))
        mark = time.perf_counter()


@contextmanager
def evaluation_mode(network: paddle.nn.Layer):
    """Every layer in evaluation mode and no gradients inside the block; each layer's own mode comes back after it."""
    modes = [(layer, layer.training) for layer in network.sublayers(include_self=True)]
    network.eval()
    try:
        with paddle.no_grad():
            yield network
    finally:
        for layer, training in modes:
            layer.training = training


def feature_function(network: Callable) -> Callable[[paddle.Tensor], paddle.Tensor]:
    """What turns images [B, 3, H, W] into features [B, F]: the network's `extract_feat`, else the network itself."""
    return getattr(network, "extract_feat", network)


def extract_shard(network: paddle.nn.Layer, loader, on_batch: Optional[Callable[[BatchRecord], None]] = None) -> Shard:
    """This rank's features, without the rows that only pad a batch and without images that could not be read.

    network: gives pooled features by `extract_feat` (trunks and methods' models do), or by being called.
    loader: of labelled images (`passl.data.build_loader`); its sampler decides what this rank gets.
    on_batch: is told of every batch.
    ValueError for multi-crop data or features that are not [B, F]; FloatingPointError when a feature is not finite.
    """
    function, normalize = feature_function(network), loader.normalizer
    features, filled = None, 0  # rows go where they stay: a list to be joined would need the memory twice
    labels, indices = [], []
    with evaluation_mode(network):
        for batch in watched(loader, on_batch, {}):
            if "image" not in batch:
                raise UserError("features are extracted from single images, and this data set gives several crops of "
                                "each: use ImageFolder with the evaluation transforms")
            output = function(normalize(paddle.to_tensor(batch["image"])))
            if not isinstance(output, paddle.Tensor) or output.ndim != 2:
                raise UserError(f"{type(network).__name__} gives no [B, F] features; hand over its trunk")
            keep = np.flatnonzero(batch["valid"])
            if features is None:
                features = np.empty([len(loader) * loader.batch_size, output.shape[1]], np.float32)
            features[filled:filled + len(keep)] = output.astype("float32").numpy()[keep]
            filled += len(keep)
            labels.append(np.asarray(batch["label"])[keep])
            indices.append(np.asarray(batch["index"])[keep])
    shard = Shard(features[:filled], np.concatenate(labels), np.concatenate(indices))
    broken = sum(int((~np.isfinite(shard.features[start:start + 4096]).all(axis=1)).sum())
                 for start in range(0, filled, 4096))
    if broken:
        raise NotFinite(f"the features of {broken} images are NaN or infinite: the network has diverged or "
                        "its weights are damaged")
    return shard


def extract_features(network: paddle.nn.Layer, loader,
                     on_batch: Optional[Callable[[BatchRecord], None]] = None) -> Tuple[np.ndarray, np.ndarray]:
    """(features float32 [N, F], labels int64 [N]) of the whole data set, equal on all ranks.

    Rows are in the order of the data set, each image once however the sampler spreads and pads them. Images that
    could not be read (`image_errors: skip`) are left out. Arguments and errors as in `extract_shard`.
    """
    return gather(extract_shard(network, loader, on_batch))


def gather(shard: Shard) -> Tuple[np.ndarray, np.ndarray]:
    """Features and labels of all ranks' shards, sorted by index, each index once."""
    features, labels, indices = shard
    if distributed.world_size() > 1:
        features, labels, indices = (distributed.all_gather_rows(paddle.to_tensor(part)).numpy() for part in shard)
    if (np.diff(indices) > 0).all():
        return features, labels  # in order already: a copy would need the memory twice
    _, first = np.unique(indices, return_index=True)
    return features[first], labels[first]
