"""What a network's features are worth on labelled images: k-NN and the fast linear probe."""
from __future__ import annotations

import math
import os
import time
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from passl import distributed
from passl.data.class_numbers import known_classes, number_alike, tell_shared_files
from passl.errors import UserError
from passl.evaluation.knn import KNNAccuracy, knn_accuracy
from passl.evaluation.linear import ProbeAccuracy, best, logistic_probe, sgd_probe
from passl.files import PathLike
from passl.inference.engine import Engine, Model
from passl.inference.extract import Shard, cached_shard, extract_shard, feature_key, gather, labelled_loader

STRENGTHS = (0.01, 0.1, 1.0, 10.0)
LARGEST_LOGISTIC = 1e8  # numbers, of which scikit-learn makes float64 copies; ImageNet has 26 times more


def knn(model: Model, train: PathLike, test: PathLike, ks: Sequence[int] = (10, 20, 200),
        temperatures: Sequence[float] = (0.07, 0.1), cache: Optional[PathLike] = None, batch_size: int = 64,
        workers: Optional[int] = None, engine: str = "auto") -> List[KNNAccuracy]:
    """k-NN accuracy of pooled features: test images are classified by their nearest training images.

    train, test: a class tree or a list file of 'path label' lines. ks, temperatures and results: see
        `passl.evaluation.knn.knn_accuracy`; one result for each k (outer) and temperature (inner), equal on all ranks.
    cache: folder to keep the features in; another call with the same weights, images and transforms takes them from
        there.
    workers, and engine for `backend`: see `passl.inference.engine.Engine`.
    FileNotFoundError, or DataError for data without labels or with a class in `test` that is not in `train`
    (classes are found by name, and `test` may lack some).

    Example:
        >>> import pathlib, numpy, passl, PIL.Image
        >>> for name, value in (("black", 0), ("white", 255)):
        ...     pathlib.Path("images", name).mkdir(parents=True)
        ...     PIL.Image.fromarray(numpy.full([32, 32, 3], value, "uint8")).save(f"images/{name}/1.png")
        >>> model = passl.get_model("resnet10", base_channels=4, stem="small")
        >>> passl.knn(model, "images", "images", ks=[1], temperatures=[0.1])
        [KNNAccuracy(k=1, temperature=0.1, top1=1.0, top5=1.0)]
    """
    bank, test_shard = _shards(Engine(model, batch_size, workers, backend=engine), train, test, cache)
    queries, query_labels = gather(test_shard)
    return knn_accuracy(bank.features, bank.labels, queries, query_labels, ks=ks, temperatures=temperatures,
                        bank_indices=bank.indices)


class ProbeResult(NamedTuple):
    """What `probe` finds.

    probes: one for each learning rate, then one for each C. seconds: of "features" and "classifiers". left_out: why
    there is no logistic regression, empty when there is one or none was wanted.
    """

    probes: List[ProbeAccuracy]
    seconds: Dict[str, float]
    left_out: str = ""

    @property
    def best(self) -> ProbeAccuracy:
        return best(self.probes)

    def summary(self) -> Dict[str, Any]:
        """For JSON, which has no NaN: the accuracies of a classifier that diverged are None."""
        return {"seconds": self.seconds, "best": _plain(self.best), "probes": [_plain(probe) for probe in self.probes]}


def probe(model: Model, train: PathLike, test: PathLike, learning_rates: Sequence[float] = (0.03, 0.1, 0.3, 1.0, 3.0),
          epochs: int = 100, strengths: Optional[Sequence[float]] = None, seed: int = 0,
          cache: Optional[PathLike] = None, batch_size: int = 64, workers: Optional[int] = None,
          engine: str = "auto") -> Optional[ProbeResult]:
    """Accuracy of linear classifiers on pooled features that are extracted once, without crops or flips.

    train, test, cache, workers, engine: as in `knn`. learning_rates, epochs, seed: of SGD; none leaves it out.
    strengths: C of the logistic regression; () leaves it out, None is 0.01 to 10, and none for more than 1e8 numbers of
        features.
    Returns None on ranks other than the first. Errors as in `knn`; ValueError when nothing is left to train.

    Example:
        >>> import pathlib, numpy, passl, PIL.Image
        >>> for name, value in (("black", 0), ("white", 255)):
        ...     pathlib.Path("images", name).mkdir(parents=True)
        ...     PIL.Image.fromarray(numpy.full([32, 32, 3], value, "uint8")).save(f"images/{name}/1.png")
        >>> model = passl.get_model("resnet10", base_channels=4, stem="small")
        >>> passl.probe(model, "images", "images", learning_rates=[], strengths=[1.0]).best.top1
        1.0
    """
    begin = time.monotonic()
    shards = _shards(Engine(model, batch_size, workers, backend=engine), train, test, cache)
    (features, labels), test_set = map(gather, shards)
    if distributed.rank():
        return None  # a sweep takes seconds to minutes on one process
    extracted = time.monotonic()
    left_out = ""
    if strengths is None:
        strengths = STRENGTHS if features.size <= LARGEST_LOGISTIC else ()
        if not strengths:
            left_out = (f"{len(features)} images x {features.shape[1]} features are a float64 copy of "
                        f"{features.size * 8 / 1e9:.1f} GB and one CPU's work")
    if not learning_rates and not strengths:
        raise UserError("nothing is left to train: give learning rates or strengths")
    probes: List[ProbeAccuracy] = []
    if learning_rates:
        probes += sgd_probe(features, labels, *test_set, learning_rates=learning_rates, epochs=epochs, seed=seed)
    if strengths:
        probes += logistic_probe(features, labels, *test_set, strengths=strengths)
    return ProbeResult(probes, {"features": extracted - begin, "classifiers": time.monotonic() - extracted}, left_out)


def _shards(engine: Engine, train: PathLike, test: PathLike, cache: Optional[PathLike]) -> Tuple[Shard, Shard]:
    """This rank's features of both sets, whose classes have the same numbers."""
    roots = [os.path.expanduser(train), os.path.expanduser(test)]
    require_labelled(dict(zip(("train", "test"), roots)))
    loaders = [labelled_loader(engine, root, root) for root in roots]
    keys = [feature_key(engine, loader) for loader in loaders] if cache is not None else []
    known, asked = (loader.dataset.samples for loader in loaders)
    number_alike(asked, known_classes(known, roots[0]), roots[1])
    if not distributed.rank():
        tell_shared_files(known, asked, *roots)
    shards = []
    try:
        for place, loader in enumerate(loaders):
            shards.append(extract_shard(engine.network, loader, backend=engine.backend)
                          if cache is None else cached_shard(
                engine, loader, os.path.join(os.path.expanduser(cache), ("train", "test")[place]), keys[place]))
    finally:
        for loader in loaders:
            loader.close()
    return shards[0], shards[1]


def require_labelled(roots: Mapping[str, str]) -> None:
    """FileNotFoundError unless all places exist; `roots` names each by the option or parameter that it comes from."""
    for name, root in roots.items():
        if not os.path.exists(root):
            raise FileNotFoundError(f"{name} {root} does not exist (looked from {os.getcwd()}): give a folder with one "
                                    "sub-folder per class, or a list file of 'path label' lines")


def _plain(probe: ProbeAccuracy) -> Dict[str, Any]:
    return {key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in probe._asdict().items()}
