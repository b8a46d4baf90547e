"""The network that a config describes, with trained weights: for commands that take `-c` and do not train."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Optional

from passl.inference.card import ModelCard, fill_from_run, transform_of
from passl.methods.base import RunFacts
from passl.methods.classify import Classification
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


def model_of_config(config: Mapping[str, Any], weights: Path):
    """The network of the Model section with `weights`, in evaluation mode and with a card.

    Images are prepared as the config's own Eval transform says. CheckpointError when the file lacks a weight of the
    network or holds another shape: what the config describes is what comes out, or nothing.
    """
    if is_classifier(config):
        model = build_classifier(config, weights).model
    else:
        model = METHODS.get(config["Model"]["name"]).build_network(dict(config["Model"]["backbone"]))
    load_into(model, weights, strict="all")
    network = model.res_model
    has_prototypes = getattr(network, "prototypes", None) is not None
    if has_prototypes:
        network.normalize_prototypes()  # a checkpoint holds them as the last step left them
    model.card = ModelCard(config["Model"]["name"], str(weights), has_classifier=is_classifier(config),
                           has_prototypes=has_prototypes,
                           has_embedding=not is_classifier(config) and network.projection_head is not None)
    fill_from_run(model.card, weights)
    model.card.transform = transform_of(config)
    model.eval()
    return model
