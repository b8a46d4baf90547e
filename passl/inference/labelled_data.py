"""Loaders for evaluation: every image once, in order, sharded over ranks, classes numbered as in training."""
from __future__ import annotations

from typing import Any, Mapping

from passl import distributed
from passl.data import Loader, build_loader
from passl.data.class_numbers import known_classes, number_alike, tell_shared_files
from passl.data.datasets import LabelledDataset
from passl.data.sampler import DistributedBatchSampler
from passl.errors import DataError


def evaluation_loader(section: Mapping[str, Any], seed: int = 0, place: str = "DataLoader.Eval") -> Loader:
    """Loader of a DataLoader section for evaluation; shuffling, dropping and unsharded sampling are overruled.

    DataError when the data give several crops an image.
    """
    sampler = {"name": "DistributedBatchSampler", "batch_size": section["sampler"]["batch_size"]}
    loader = build_loader({**section, "sampler": sampler}, seed=seed, rank=distributed.rank(),
                          world_size=distributed.world_size())
    if not isinstance(loader.dataset, LabelledDataset):
        raise DataError(f"{place}.dataset gives several crops of each image; evaluation needs single labelled images, "
                        "for instance ImageFolder with Resize and CenterCrop")
    return loader


def bank_loader(config: Mapping[str, Any], train_dataset, query: Loader) -> Loader:
    """The labelled images that classify others: DataLoader.Bank, or the training images under the Eval transform.

    train_dataset: of the run, possibly multi-crop. The classes of `query` get the numbers of these images.
    DataError when its images have no labels.
    """
    sections = config["DataLoader"]
    if sections.get("Bank"):
        loader = evaluation_loader(sections["Bank"], config["Global"]["seed"], "DataLoader.Bank")
        if config["Global"]["online_probe"]:  # which reads the same queries
            number_alike(loader.dataset.samples, known_classes(train_dataset.samples, "DataLoader.Train"),
                         "DataLoader.Bank")
    else:
        if not (train_dataset.labels >= 0).any():
            raise DataError("the training images have no labels, so they cannot vote in k-NN: set DataLoader.Bank to a "
                            "class tree, or Global.knn_interval to 0")
        dataset = LabelledDataset(train_dataset.samples, None, train_dataset.image_errors, train_dataset.seed)
        dataset.transform, dataset.normalization = query.dataset.transform, query.dataset.normalization
        sampler = DistributedBatchSampler(len(dataset), query.batch_size, rank=distributed.rank(),
                                          world_size=distributed.world_size())
        loader = Loader(dataset, sampler, query.num_workers, query.prefetch_batches)
    place = "DataLoader.Bank" if sections.get("Bank") else "DataLoader.Train"
    number_alike(query.dataset.samples, known_classes(loader.dataset.samples, place), "DataLoader.Eval")
    if not distributed.rank():
        tell_shared_files(loader.dataset.samples, query.dataset.samples, place, "DataLoader.Eval")
    return loader
