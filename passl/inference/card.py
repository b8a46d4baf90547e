"""What a network needs besides its weights: how images are prepared, what its classes are called, what is trained."""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Mapping, Optional, Sequence

if TYPE_CHECKING:
    import paddle

MEAN, STD = [0.485, 0.456, 0.406], [0.228, 0.224, 0.225]  # 0.228 for red is what the SwAV releases were trained with
CLASS_NAMES = "classes.txt"


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
    a config. classes: names of its outputs, empty when unknown. has_classifier: it has a trained one.
    has_prototypes: it has trained ones.
    """

    name: str = "a network"
    source: Optional[str] = None
    transform: List[Mapping[str, Any]] = field(default_factory=evaluation_transform)
    classes: List[str] = field(default_factory=list)
    has_classifier: bool = False
    has_prototypes: bool = False


def card_of(model: paddle.nn.Layer) -> ModelCard:
    """The card of a model from `get_model`; for any other layer one that trusts its weights."""
    card = getattr(model, "card", None)
    return card or ModelCard(name=type(model).__name__, has_classifier=True, has_prototypes=True)


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


def read_class_names(path: Path) -> List[str]:
    """One class name a line, in the order of the outputs; none when there is no such file."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()] if path.is_file() else []
