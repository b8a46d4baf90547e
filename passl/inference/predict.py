"""Classes of images, by a trained probe or fine-tuned network."""
from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import paddle.nn.functional as F

from passl.errors import UserError
from passl.inference.card import card_of
from passl.inference.engine import Engine, Model
from passl.inference.images import collect


def predict(model: Model, images: Any, top_k: Optional[int] = None, batch_size: int = 32, engine: str = "auto"
            ) -> Union[Dict[str, Any], List[Dict[str, Any]]]:
    """Classify pictures: a dict for one, a list of dicts for several (see `passl.inference.images.collect`).

    Keys: pred_label (class number), pred_class (its name; the number as text when names are unknown), pred_score
    (probability), pred_scores float32 [C]; with `top_k` also top, the k best as (name, probability).
    engine: what runs the network, `backend` of `Engine`.
    ValueError for a network without a classifier, or whose classifier is untrained.

    Example:
        >>> import numpy, passl
        >>> model = passl.get_model("swav_resnet10_finetune", class_num=4, base_channels=4, stem="small")
        >>> model.card.has_classifier = True  # its weights are random, and it would refuse
        >>> answer = passl.predict(model, numpy.zeros([32, 32, 3], "uint8"), top_k=2)
        >>> answer["pred_scores"].shape, len(answer["top"])
        ((4,), 2)
    """
    given = collect(images)
    results = [result for _, result in predictions(Engine(model, batch_size, backend=engine), given, None, top_k)]
    return results[0] if given.single else results


inference_model = predict  # mmpretrain's name


def predictions(engine: Engine, images: Any, classes: Optional[Sequence[str]] = None, top_k: Optional[int] = None
                ) -> Iterator[Tuple[int, Dict[str, Any]]]:
    """(number of the image, what `predict` tells of it) as they come; images that cannot be read are left out.

    classes: names in the order of the outputs; default: the model's own. Errors as in `predict`.
    """
    require_classifier(engine.network)
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k is {top_k}; it must be at least 1")
    names = card_of(engine.network).classes if classes is None else classes
    for batch in engine.stream(images, ("logits",)):
        probabilities = F.softmax(batch.output["logits"].astype("float32"), axis=1).numpy()
        if len(names) != probabilities.shape[1]:
            if classes is not None:
                raise UserError(f"{len(classes)} class names for a classifier of {probabilities.shape[1]} classes: "
                                "--classes names another file")
            names = [str(number) for number in range(probabilities.shape[1])]
        for row in np.flatnonzero(batch.valid):
            scores = probabilities[row]
            best = int(scores.argmax())
            result = {"pred_label": best, "pred_class": names[best], "pred_score": float(scores[best]),
                      "pred_scores": scores}
            if top_k is not None:
                order = np.argsort(-scores, kind="stable")[:top_k]
                result["top"] = [(names[label], float(scores[label])) for label in order]
            yield batch.start + int(row), result


def require_classifier(model) -> None:
    """ValueError unless the network has a trained classifier: random logits look like answers."""
    card = card_of(model)
    if "logits" not in getattr(model, "output_heads", ()):
        raise UserError(f"{card.name} has no classifier; passl.assign gives its clusters and passl.embed its features,"
                        " or train a probe on it (docs/evaluation.md)")
    if not card.has_classifier:
        where = f" ({card.source} has none)" if card.source else ""
        raise UserError(f"the classifier of {card.name} is untrained{where}, so its answers would be random: give "
                        "get_model the weights of a trained probe or fine-tuned model")
