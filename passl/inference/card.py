"""What a network needs besides its weights: how images are prepared, what its classes are called, what is trained."""
from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Tuple

from passl.config import ConfigError, load_config
from passl.files import write_text
from passl.models.stems import STEMS
from passl.weights import Checkpoint, Found
from passl.weights.layouts.description import (
    DESCRIPTION,
    MEAN,
    STD,
    Description,
    evaluation_transform,
    read_description,
    resized,
)
from passl.weights.locate import WEIGHTS, find_config

LOGGER = logging.getLogger("passl")

if TYPE_CHECKING:
    import paddle

CLASS_NAMES = "classes.txt"
SECTIONS = ("Global", "Model", "DataLoader")  # a config.yaml without any of them is not one of ours


@dataclass
class ModelCard:
    """Stands beside a network as `model.card`.

    name: what it was asked for by. source: its weight file, None for random weights. transform: a transform list as in
    a config. classes: names of its outputs, empty when unknown. has_classifier, has_prototypes: it has trained ones.
    has_embedding: its projection head is trained. model: the Model section it was built from, {} when it is not known.
    """

    name: str = "a network"
    source: Optional[str] = None
    transform: List[Mapping[str, Any]] = field(default_factory=evaluation_transform)
    classes: List[str] = field(default_factory=list)
    has_classifier: bool = False
    has_prototypes: bool = False
    has_embedding: bool = False
    model: Dict[str, Any] = field(default_factory=dict)


def card_of(model: paddle.nn.Layer) -> ModelCard:
    """The card of a model from `get_model`; for any other layer one that trusts its weights."""
    card = getattr(model, "card", None)
    return card or ModelCard(name=type(model).__name__, has_classifier=True, has_prototypes=True, has_embedding=True)


def transform_of(config: Mapping[str, Any]) -> List[Mapping[str, Any]]:
    """How a run's config prepares images for evaluation: its Eval transform, else from its largest crop size."""
    sections = config.get("DataLoader") or {}
    for name in ("Eval", "Bank"):
        entries = ((sections.get(name) or {}).get("dataset") or {}).get("transform")
        if entries:
            return list(entries)
    dataset = (sections.get("Train") or {}).get("dataset") or {}
    if dataset.get("size_crops"):
        return evaluation_transform(max(dataset["size_crops"]), dataset.get("mean", MEAN), dataset.get("std", STD))
    return evaluation_transform()


def prepared_size(transform: List[Mapping[str, Any]]) -> Optional[Tuple[int, int]]:
    """(height, width) of images after a transform list; None when it leaves the size to the image."""
    import numpy as np

    from passl.data.augment.transforms import ImageTransform
    from passl.data.random_streams import Stream

    pixels = ImageTransform(list(transform))
    shapes = {pixels(np.zeros([*size, 3], np.uint8), Stream(0, 0, 0)).shape[:2] for size in ((96, 128), (150, 90))}
    return shapes.pop() if len(shapes) == 1 else None


def run_config(weights: Path) -> Dict[str, Any]:
    """The config of the run that `weights` belong to; {} for other files, and beside a config.yaml that is not ours."""
    path = find_config(weights)
    if path is None:
        return {}
    try:
        config = load_config(str(path)).plain()
    except ConfigError:
        if not weights.name == WEIGHTS:
            return {}  # another program's file
        raise
    return config if any(isinstance(config.get(section), dict) for section in SECTIONS) else {}


def fill_from_run(card: ModelCard, weights: Path) -> None:
    """Take the preparation of images, and for a classifier the names of classes, from the run of `weights`, if any."""
    config = run_config(weights)
    if config:
        card.transform = transform_of(config)
        card.classes = class_names_of(weights) if card.has_classifier else []


def describe(config: Mapping[str, Any]) -> Description:
    """What the weights of a run with this config say of their network."""
    return Description(dict(config.get("Model") or {}), transform_of(config))


def prepare_as_trained(card: ModelCard, checkpoint: Checkpoint, found: Found, weights: Path,
                       size: Optional[int] = None) -> None:
    """Fill the card of a network that was opened from a file: by what the file says, else by its run, else by custom.

    size: what the user says of the images. One warning names what had to be assumed.
    """
    described, config = read_description(checkpoint.meta), run_config(weights)
    fill_from_run(card, weights)
    if described.transform:
        card.transform = described.transform
    elif not config:
        card.transform = evaluation_transform(32 if found.stem_kernel == 3 else 224)
    is_stem_open = bool(found.stem) and not found.stem_known and not config
    is_size_open = size is None and not described.transform and not config and (is_stem_open or found.origin == "passl")
    if size is not None:
        card.transform = resized(card.transform, size)
    if is_stem_open or is_size_open:
        height, width = prepared_size(card.transform) or (224, 224)
        assumed = ([f"the stem '{found.stem}'"] if is_stem_open else []) + [
            f"images of {height}x{width} pixels, normalised with mean {MEAN} and deviation {STD}"]
        LOGGER.warning(f"{weights} does not say how its network looks at images. Assumed: {'; '.join(assumed)}. "
                       f"--stem {{{','.join(STEMS)}}} and --size N (get_model: stem=, size=) say otherwise, for good "
                       "with passl-convert")


def class_names_of(weights: Path) -> List[str]:
    """Names of the outputs that the run of `weights` was trained with; none when it is not known."""
    path = find_config(weights, CLASS_NAMES)
    return read_class_names(path) if path else []


def save_run(folder: Path, model, config: Mapping[str, Any]) -> Path:
    """Write `model` so that `folder` can be opened like a run: passl.pdparams, config.yaml, classes.txt when known.

    config: of the run that it comes from, {} for none; its Eval transform becomes the model's.
    """
    import copy

    import paddle

    from passl.config import Config

    card, sections = model.card, copy.deepcopy(dict(config))
    loaders = sections["DataLoader"] = dict(sections.get("DataLoader") or {})
    evaluation = loaders["Eval"] = dict(loaders.get("Eval") or {})
    evaluation["dataset"] = {**(evaluation.get("dataset") or {}), "transform": list(card.transform)}
    folder.mkdir(parents=True, exist_ok=True)
    described = Description(card.model or dict(sections.get("Model") or {}), list(card.transform))
    paddle.save({**{name: tensor.numpy() for name, tensor in model.state_dict().items()},
                 DESCRIPTION: described.plain()}, str(folder / WEIGHTS))
    Config(sections).save(str(folder / "config.yaml"))
    if card.classes:
        write_text(folder / CLASS_NAMES, "".join(f"{name}\n" for name in card.classes))
    return folder


def read_class_names(path: Path) -> List[str]:
    """One class name a line, in the order of the outputs; none when there is no such file. Names may hold any byte."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")  # with newlines as '\n'
    return [line for line in text.split("\n") if line]  # str.splitlines would cut names at rarer line breaks
