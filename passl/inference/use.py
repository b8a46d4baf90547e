"""Classify, embed and cluster images with a model from `get_model`, the path of a run, or any layer of this library."""
from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Union

import numpy as np
import paddle
import paddle.nn.functional as F

from passl.errors import UserError
from passl.evaluation.extract import evaluation_mode
from passl.inference.card import card_of
from passl.inference.images import batches, collect
from passl.inference.stream import require_finite

TEMPERATURE = 0.1
Model = Union[paddle.nn.Layer, str, "os.PathLike[str]"]  # a network, or what `as_model` takes


class Clusters(NamedTuple):
    """clusters int64 [N, heads]: prototype of each image; confidence float32 [N, heads]: its probability."""

    clusters: np.ndarray
    confidence: np.ndarray


def inference_model(model: Model, images: Any, top_k: Optional[int] = None, batch_size: int = 32
                    ) -> Union[Dict[str, Any], List[Dict[str, Any]]]:
    """Classify pictures: a dict for one, a list of dicts for several (see `passl.inference.images.collect`).

    Keys: pred_label (class number), pred_class (its name; the number as text when names are unknown), pred_score
    (probability), pred_scores float32 [C]; with `top_k` also top, the k best as (name, probability).
    ValueError for a network without a classifier, or whose classifier is untrained.
    """
    model = as_model(model)
    require_classifier(model)
    given = collect(images)
    probabilities = run(model, given.items, lambda x: F.softmax(model(x).astype("float32"), axis=1), batch_size)
    results = [describe(scores, card_of(model).classes, top_k) for scores in probabilities]
    return results[0] if given.single else results


def as_model(model: Model) -> paddle.nn.Layer:
    """`model` itself, or the network with trained weights that a name or path stands for: a run's folder, a file."""
    if not isinstance(model, (str, os.PathLike)):
        return model
    from passl.inference.get_model import get_model, list_models

    name = os.fspath(model)
    return get_model(name, pretrained=True if name in list_models() else None)


def describe(scores: np.ndarray, classes: List[str], top_k: Optional[int] = None) -> Dict[str, Any]:
    """The result of one picture, from its probabilities [C]."""
    names = classes if len(classes) == len(scores) else [str(number) for number in range(len(scores))]
    best = int(scores.argmax())
    result = {"pred_label": best, "pred_class": names[best], "pred_score": float(scores[best]), "pred_scores": scores}
    if top_k is not None:
        if top_k < 1:
            raise UserError(f"top_k is {top_k}; it must be at least 1")
        order = np.argsort(-scores, kind="stable")[:top_k]
        result["top"] = [(names[label], float(scores[label])) for label in order]
    return result


def require_classifier(model) -> None:
    """ValueError unless the network has a trained classifier: random logits look like answers."""
    card = card_of(model)
    if "logits" not in model.output_heads:
        raise UserError(f"{card.name} has no classifier; passl.assign gives its clusters and passl.embed its features,"
                        " or train a probe on it (docs/evaluation.md)")
    if not card.has_classifier:
        where = f" ({card.source} has none)" if card.source else ""
        raise UserError(f"the classifier of {card.name} is untrained{where}, so its answers would be random: give "
                        "get_model the weights of a trained probe or fine-tuned model")


def embed(model: Model, images: Any, batch_size: int = 32) -> np.ndarray:
    """Features of pictures, float32 [N, F], also for a single one (N = 1): pooled trunk features, before any head."""
    model = as_model(model)
    return run(model, collect(images).items, model.extract_feat, batch_size)


def assign(model: Model, images: Any, balanced: bool = False, temperature: float = TEMPERATURE, epsilon: float = 0.05,
           iterations: int = 3, batch_size: int = 32) -> Clusters:
    """Cluster of each picture under every prototype head of a pretrained network.

    confidence is the softmax of the scores at `temperature`. balanced=True assigns all pictures together by Sinkhorn
    (`epsilon`, `iterations` as in training), so that clusters get about equally many; the result then depends on the
    whole set, and confidence is the soft assignment. ValueError for a network without trained prototypes.
    """
    model = as_model(model)
    scores = run(model, collect(images).items, score_function(model), batch_size)
    return assign_scores(scores, balanced, temperature, epsilon, iterations)


def assign_scores(scores: np.ndarray, balanced: bool = False, temperature: float = TEMPERATURE, epsilon: float = 0.05,
                  iterations: int = 3) -> Clusters:
    """`assign` from scores of several heads side by side: a list of [N, K_h], or one [N, K]."""
    heads = scores if isinstance(scores, list) else [scores]
    clusters, confidence = [], []
    for head in heads:
        if balanced:
            from passl.clustering.sinkhorn import sinkhorn

            probabilities = sinkhorn(paddle.to_tensor(head), epsilon, iterations).soft.numpy()
        else:
            probabilities = F.softmax(paddle.to_tensor(head) / temperature, axis=1).numpy()
        clusters.append(probabilities.argmax(axis=1))
        confidence.append(probabilities.max(axis=1))
    return Clusters(np.stack(clusters, axis=1).astype(np.int64), np.stack(confidence, axis=1).astype(np.float32))


def score_function(model) -> Callable[[paddle.Tensor], Any]:
    """images [B, 3, H, W] -> prototype scores, a list with one tensor [B, K] for each head."""
    card = card_of(model)
    if "scores" not in model.output_heads:
        raise UserError(f"{card.name} has no prototypes, so it has no clusters of its own; give a pretraining "
                        "checkpoint, or cluster the features of passl.embed")
    if not card.has_prototypes:
        raise UserError(f"the prototypes of {card.name} are untrained: give get_model a pretraining checkpoint that "
                        "holds them")

    return lambda images: paddle.split(model.outputs(images, ["scores"])["scores"], model.head_sizes, axis=1)


def run(model, items, function: Callable, batch_size: int):
    """Apply `function` to all pictures in evaluation mode; rows joined over batches, of a list for each element."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1")
    parts: List[Any] = []
    with evaluation_mode(model):
        for _, images in batches(items, card_of(model).transform, batch_size):
            output = function(images)
            require_finite(output, model)
            parts.append([one.astype("float32").numpy() for one in output] if isinstance(output, list)
                         else output.astype("float32").numpy())
    if isinstance(parts[0], list):
        return [np.concatenate(head) for head in zip(*parts)]
    return np.concatenate(parts)
