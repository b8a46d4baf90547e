"""Loaders for evaluation: every image once, in order, sharded over ranks, classes numbered as in training."""
from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

import numpy as np

from passl import distributed
from passl.data import Loader, build_loader
from passl.data.datasets import LabelledDataset
from passl.data.sampler import DistributedBatchSampler
from passl.errors import DataError
from passl.registry import nearest


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

    train_dataset: of the run, possibly multi-crop. DataError when its images have no labels.
    """
    sections = config["DataLoader"]
    if sections.get("Bank"):
        loader = evaluation_loader(sections["Bank"], config["Global"]["seed"], "DataLoader.Bank")
    else:
        if not (train_dataset.labels >= 0).any():
            raise DataError("the training images have no labels, so they cannot vote in k-NN: set DataLoader.Bank to a "
                            "class tree, or Global.knn_interval to 0")
        dataset = LabelledDataset(train_dataset.samples, None, train_dataset.image_errors, train_dataset.seed)
        dataset.transform, dataset.normalization = query.dataset.transform, query.dataset.normalization
        sampler = DistributedBatchSampler(len(dataset), query.batch_size, rank=distributed.rank(),
                                          world_size=distributed.world_size())
        loader = Loader(dataset, sampler, query.num_workers, query.prefetch_batches)
    check_same_classes(loader.dataset.classes, query.dataset.classes,
                       "DataLoader.Bank" if sections.get("Bank") else "DataLoader.Train", "DataLoader.Eval")
    return loader


def number_as_trained(dataset: LabelledDataset, trained: Sequence[str], outputs: int, place: str = "DataLoader.Eval"
                      ) -> None:
    """Give the labels of `dataset` the numbers that a classifier was trained with, found by the names of classes.

    A tree that lacks some class numbers the others differently. trained: class names in the order of the `outputs`
    outputs, empty when unknown. DataError for a class that the classifier does not know, and when names are needed and
    not there. Data without names (label lists) keep their numbers.
    """
    names = list(dataset.classes)
    if not names:
        return
    if not trained:
        if len(names) != outputs:
            raise DataError(f"{place} has {len(names)} classes and the classifier {outputs} outputs, and the weights "
                            "bring no class names to tell which are which: evaluate the run's folder, whose "
                            "classes.txt has them, or put such a file beside config.yaml and the weights")
        return
    unknown = [name for name in names if name not in set(trained)]
    if unknown:
        raise DataError(f"{place} has the class '{unknown[0]}'{nearest(unknown[0], trained)}, which the classifier was "
                        f"not trained on ({len(unknown)} of {len(names)} classes are unknown; it knows "
                        f"{', '.join(list(trained)[:5])}{', ...' if len(trained) > 5 else ''}): name the folders as in "
                        "training")
    number = np.array([list(trained).index(name) for name in names])
    labels = dataset.samples.labels
    labels[labels >= 0] = number[labels[labels >= 0]]
    dataset.samples.classes = list(trained)


def check_same_classes(first: Sequence[str], second: Sequence[str], first_name: str, second_name: str) -> None:
    """Refuse data sets that number their classes differently: every accuracy between them would be wrong."""
    difference: Optional[str] = next(iter(sorted(set(first) ^ set(second))), None)
    if first and second and difference is not None:
        owner, other = (first_name, second_name) if difference in set(first) else (second_name, first_name)
        raise DataError(f"{first_name} has {len(first)} classes and {second_name} {len(second)}: '{difference}' is in "
                        f"{owner} and not in {other}, so their class numbers disagree; use trees with the same "
                        "class folders")
