"""Features of a whole data set: one pass in evaluation mode, in the order of the data set, exact over ranks."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Tuple

import numpy as np
import paddle

from passl import distributed
from passl.data.loader import Loader
from passl.errors import NotFinite, UserError
from passl.evaluation.features import load_features, network_fingerprint, save_features
from passl.files import PathLike
from passl.inference.card import card_of
from passl.inference.engine import BatchRecord, Engine
from passl.inference.images import digest
from passl.inference.labelled_data import evaluation_loader


class Shard(NamedTuple):
    """This rank's part of a data set: features float32 [n, F], labels int64 [n] (-1: none), indices int64 [n]."""

    features: np.ndarray
    labels: np.ndarray
    indices: np.ndarray


def extract_shard(network: paddle.nn.Layer, loader: Loader,
                  on_batch: Optional[Callable[[BatchRecord], None]] = None, backend: str = "auto") -> Shard:
    """This rank's features, without the rows that only pad a batch and without images that could not be read.

    network: gives pooled features by `extract_feat` (trunks and methods' models do), or by being called.
    loader: of labelled images (`passl.data.build_loader`); its sampler decides what this rank gets.
    on_batch: is told of every batch. backend: see `Engine`.
    ValueError for multi-crop data or features that are not [B, F]; FloatingPointError when a feature is not finite.
    """
    features: Optional[np.ndarray] = None  # rows go where they stay: a list to be joined would need the memory twice
    filled = 0
    labels, indices = [], []
    for batch in Engine(network, backend=backend).stream(loader, on_batch=on_batch, finite=False):
        output = batch.output["features"]
        if not isinstance(output, paddle.Tensor) or output.ndim != 2:
            raise UserError(f"{type(network).__name__} gives no [B, F] features; hand over its trunk")
        keep = np.flatnonzero(batch.valid)
        if features is None:
            features = np.empty([len(loader) * loader.batch_size, output.shape[1]], np.float32)
        features[filled:filled + len(keep)] = output.astype("float32").numpy()[keep]
        filled += len(keep)
        labels.append(np.asarray(batch.labels)[keep])
        indices.append(np.asarray(batch.indices)[keep])
    assert features is not None  # a sampler gives every rank a batch
    shard = Shard(features[:filled], np.concatenate(labels), np.concatenate(indices))
    broken = sum(int((~np.isfinite(shard.features[start:start + 4096]).all(axis=1)).sum())
                 for start in range(0, filled, 4096))
    if broken:
        raise NotFinite(f"the features of {broken} images are NaN or infinite: the network has diverged or "
                        "its weights are damaged")
    return shard


def extract_features(network: paddle.nn.Layer, loader,
                     on_batch: Optional[Callable[[BatchRecord], None]] = None, backend: str = "auto"
                     ) -> Tuple[np.ndarray, np.ndarray]:
    """(features float32 [N, F], labels int64 [N]) of the whole data set, equal on all ranks.

    Rows are in the order of the data set, each image once however the sampler spreads and pads them. Images that
    could not be read (`image_errors: skip`) are left out. Arguments and errors as in `extract_shard`.
    """
    return gather(extract_shard(network, loader, on_batch, backend))


def gather(shard: Shard) -> Tuple[np.ndarray, np.ndarray]:
    """Features and labels of all ranks' shards, sorted by index, each index once."""
    features, labels, indices = shard
    if distributed.world_size() > 1:
        features, labels, indices = (distributed.all_gather_rows(paddle.to_tensor(part)).numpy() for part in shard)
    if (np.diff(indices) > 0).all():
        return features, labels  # in order already: a copy would need the memory twice
    _, first = np.unique(indices, return_index=True)
    return features[first], labels[first]


def labelled_loader(engine: Engine, root: PathLike, place: str) -> Loader:
    """Loader of a class tree or a list file of 'path label' lines, prepared as the engine's network wants it.

    place: what messages call the images.
    """
    section = {"dataset": {"name": "ImageFolder", "root": os.fspath(root),
                           "transform": list(card_of(engine.network).transform)},
               "sampler": {"batch_size": engine.batch_size}}
    loader = evaluation_loader(section, place=place)
    loader.num_workers = engine.workers_for(len(loader.dataset))
    loader.dataset.remedy = "remove the file, or name the others in a list file"
    return loader


def feature_key(engine: Engine, loader: Loader) -> Dict[str, Any]:
    """What the features of a loader depend on; to be made before its classes get other numbers."""
    return {"weights": network_fingerprint(engine.network), "images": digest(loader.dataset.samples),
            "transform": list(card_of(engine.network).transform)}


def cached_shard(engine: Engine, loader: Loader, cache: PathLike, key: Mapping[str, Any]) -> Shard:
    """`extract_shard` with the features of a folder when they are of the same `key`; else they are written there.

    Only to save them are the ranks' shards brought together.
    """
    labels = loader.dataset.labels
    cached = load_features(cache, key)
    if cached is not None:
        rows = np.arange(distributed.rank(), len(labels), distributed.world_size())
        own = cached.features if distributed.world_size() == 1 else cached.features[rows]
        return Shard(own, labels[rows], rows)
    shard = extract_shard(engine.network, loader, backend=engine.backend)
    whole = gather(shard)  # all ranks take part
    if distributed.rank() == 0:
        Path(cache).parent.mkdir(parents=True, exist_ok=True)
        save_features(cache, key, *whole)
    return shard
