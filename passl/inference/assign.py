"""Clusters of images under the prototypes of a pretrained network."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F

from passl.clustering.sinkhorn import sinkhorn
from passl.errors import UserError
from passl.evaluation.cluster_metrics import cluster_metrics
from passl.inference.card import card_of, run_config
from passl.inference.engine import Engine, Model

TEMPERATURE, EPSILON = 0.1, 0.05


@dataclass(frozen=True)
class Clusters:
    """What `assign` finds; unpacks as (clusters, confidence).

    clusters int64 [N, heads]: prototype of each image; confidence float32 [N, heads]: its probability.
    head_sizes: prototypes of each head. index int64 [N]: which of the given images a row is of, since those that cannot
    be read have none.
    """

    clusters: np.ndarray
    confidence: np.ndarray
    head_sizes: Sequence[int]
    index: np.ndarray

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.clusters, self.confidence))

    def summary(self, labels: Optional[np.ndarray] = None) -> List[Dict[str, Any]]:
        """For each head: number of prototypes, how many are used, mean confidence; with classes also the agreement.

        labels: int [N], class of each row, -1 for none (see `passl.evaluation.cluster_metrics`).
        """
        labelled = labels is not None and (labels >= 0).any()
        return [{"head": head, "prototypes": size, "used": len(np.unique(self.clusters[:, head])),
                 "confidence": float(self.confidence[:, head].mean()),
                 **(cluster_metrics(self.clusters[:, head], labels) if labelled else {})}
                for head, size in enumerate(self.head_sizes)]


def assign(model: Model, images: Any, balanced: bool = False, temperature: float = TEMPERATURE,
           epsilon: float = EPSILON, iterations: int = 3, batch_size: int = 32, workers: Optional[int] = None,
           skip_unreadable: bool = False, engine: str = "auto") -> Clusters:
    """Cluster of each picture under every prototype head of a pretrained network.

    confidence is the softmax of the scores at `temperature`. balanced=True assigns all pictures together by Sinkhorn
    (`epsilon`, `iterations` as in training), so that clusters get about equally many; the result then depends on the
    whole set, and confidence is the soft assignment. workers, skip_unreadable, and engine for `backend`: see `Engine`.
    ValueError for a network without trained prototypes.

    Example:
        >>> import numpy, passl
        >>> model = passl.get_model("swav_resnet10_pretrain", nmb_prototypes=6, base_channels=4, stem="small")
        >>> model.card.has_prototypes = True  # its weights are random, and it would refuse
        >>> clusters, confidence = passl.assign(model, numpy.zeros([2, 32, 32, 3], "uint8"))
        >>> clusters.shape, confidence.shape
        ((2, 1), (2, 1))
    """
    looking = Engine(model, batch_size, workers, skip_unreadable, engine)
    require_prototypes(looking.network)
    sizes = looking.network.head_sizes
    index: List[np.ndarray] = []
    parts: List[Any] = []  # scores only for balanced, which needs those of all images at once
    for batch in looking.stream(images, ("scores",)):
        rows = np.flatnonzero(batch.valid)
        if len(rows):
            scores = batch.array("scores")[rows]
            index.append(batch.start + rows)
            parts.append(scores if balanced else _strongest(
                F.softmax(head / temperature, axis=1) for head in _heads(scores, sizes)))
    if not parts:
        raise UserError("none of the images can be read")
    if balanced:
        parts = [_strongest(sinkhorn(head, epsilon, iterations).soft for head in _heads(np.concatenate(parts), sizes))]
    clusters, confidence = (np.concatenate(values) for values in zip(*parts))
    return Clusters(clusters, confidence, sizes, np.concatenate(index))


def _heads(scores: np.ndarray, sizes: Sequence[int]) -> List[paddle.Tensor]:
    """Scores of several heads side by side -> one tensor [N, K] for each."""
    return [paddle.to_tensor(head) for head in np.split(scores, np.cumsum(sizes)[:-1], axis=1)]


def _strongest(probabilities_of_heads: Iterable[paddle.Tensor]) -> Tuple[np.ndarray, np.ndarray]:
    """(number int64, value float32) [N, heads] of the largest probability of each row under each head."""
    found = [probabilities.numpy() for probabilities in probabilities_of_heads]
    return (np.stack([head.argmax(axis=1) for head in found], axis=1).astype(np.int64),
            np.stack([head.max(axis=1) for head in found], axis=1).astype(np.float32))


def require_prototypes(model: paddle.nn.Layer) -> None:
    """ValueError unless the network has trained prototypes: clusters of random ones look like answers."""
    card = card_of(model)
    if not getattr(model, "head_sizes", ()):
        raise UserError(f"{card.name} has no prototypes, so it has no clusters of its own; give a pretraining "
                        "checkpoint, or cluster the features of passl.embed")
    if not card.has_prototypes:
        raise UserError(f"the prototypes of {card.name} are untrained: give get_model a pretraining checkpoint that "
                        "holds them")


def trained_settings(model: paddle.nn.Layer) -> Dict[str, float]:
    """`temperature` and `epsilon` of the run that the weights are from, else the customary ones of `assign`."""
    card = card_of(model)
    trained = ((run_config(Path(card.source)).get("Model") if card.source else None) or card.model)
    return {name: trained.get(name, usual) for name, usual in (("temperature", TEMPERATURE), ("epsilon", EPSILON))}
