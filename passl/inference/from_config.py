"""The network that a config describes, with trained weights: for commands that take `-c` and do not train."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Optional

from passl.inference.card import fill_from_run, transform_of
from passl.inference.get_model import card_of_loaded, finish
from passl.methods.base import RunFacts
from passl.methods.classify import Classification
from passl.models.base import Network
from passl.registry import METHODS
from passl.weights import load_into, read, recognise


def is_classifier(config: Mapping[str, Any]) -> bool:
    """Whether Model.name is a probe or a fine-tuned network."""
    method = METHODS.get(config["Model"]["name"])
    return isinstance(method, type) and issubclass(method, Classification)


def build_classifier(config: Mapping[str, Any], weights: Path) -> Classification:
    """The method of the Model section, its weights still random; a class number it does not give is the file's."""
    model = config["Model"]
    has_number = model.get("class_num") or (model.get("backbone") or {}).get("output_dim")
    return METHODS.build(model, run=RunFacts(class_count=None if has_number else classes_in(weights)))


def classes_in(path: Path) -> Optional[int]:
    """Outputs of the classifier in a weight file."""
    found = recognise(read(path))[1]
    return found.classes[0] if found.classes else None


def model_of_config(config: Mapping[str, Any], weights: Path) -> Network:
    """The network of the Model section with `weights`, in evaluation mode and with a card.

    Images are prepared as the config's own Eval transform says. CheckpointError when the file lacks a weight of the
    network or holds another shape: what the config describes is what comes out, or nothing.
    """
    if is_classifier(config):
        model = build_classifier(config, weights).model
    else:
        method: Any = METHODS.get(config["Model"]["name"])
        model = method.build_network(dict(config["Model"]["backbone"]))
    card = card_of_loaded(config["Model"]["name"], model, load_into(model, weights, strict="all"))
    fill_from_run(card, weights)
    card.transform = transform_of(config)
    return finish(model, card)
