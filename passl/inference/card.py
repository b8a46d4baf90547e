"""What a network needs besides its weights: how images are prepared, what its classes are called, what is trained."""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple

from passl.config import ConfigError, load_config
from passl.files import write_text
from passl.weights.locate import WEIGHTS, find_config

if TYPE_CHECKING:
    import paddle

MEAN, STD = [0.485, 0.456, 0.406], [0.228, 0.224, 0.225]  # 0.228 for red is what the SwAV releases were trained with
CLASS_NAMES = "classes.txt"
SECTIONS = ("Global", "Model", "DataLoader")  # a config.yaml without any of them is not one of ours


def evaluation_transform(size: int = 224, mean: Sequence[float] = MEAN,
                         std: Sequence[float] = STD) -> List[Mapping[str, Any]]:
    """Centre crop of `size` pixels after the usual resize (256 for 224); small images are only resized to `size`."""
    resize = round(size * 256 / 224) if size >= 96 else size
    return [{"Resize": {"size": resize}}, {"CenterCrop": {"size": size}},
            {"Normalize": {"mean": list(mean), "std": list(std)}}]


@dataclass
class ModelCard:
    """Stands beside a network as `model.card`.

    name: what it was asked for by. source: its weight file, None for random weights. transform: a transform list as in
    a config. classes: names of its outputs, empty when unknown. has_classifier, has_prototypes: it has trained ones.
    has_embedding: its projection head is trained.
    """

    name: str = "a network"
    source: Optional[str] = None
    transform: List[Mapping[str, Any]] = field(default_factory=evaluation_transform)
    classes: List[str] = field(default_factory=list)
    has_classifier: bool = False
    has_prototypes: bool = False
    has_embedding: bool = False


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
    paddle.save({name: tensor.numpy() for name, tensor in model.state_dict().items()}, str(folder / WEIGHTS))
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
