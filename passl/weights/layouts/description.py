"""What an own weight file says of its network beyond the shapes of its weights: the entry `passl.model`.

A stem cannot be read from the weights: a 3x3 first convolution may pad by 1 or 2 and may stand in front of a max-pool.
How images are prepared cannot either. Checkpoints, passl-recalibrate and passl-convert write both into the .pdparams;
Paddle's own loaders skip the entry, as they skip `passl.conversion`. Files written before have none.
"""
from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Mapping, Optional, Sequence

from passl.errors import CheckpointError, UserError
from passl.models.stems import STEMS
from passl.weights.formats.reader import Checkpoint

DESCRIPTION = "passl.model"
MEAN, STD = [0.485, 0.456, 0.406], [0.228, 0.224, 0.225]  # 0.228 for red is what the SwAV releases were trained with


def evaluation_transform(size: int = 224, mean: Sequence[float] = MEAN,
                         std: Sequence[float] = STD) -> List[Mapping[str, Any]]:
    """Centre crop of `size` pixels after the usual resize (256 for 224); small images are only resized to `size`."""
    resize = round(size * 256 / 224) if size >= 96 else size
    return [{"Resize": {"size": resize}}, {"CenterCrop": {"size": size}},
            {"Normalize": {"mean": list(mean), "std": list(std)}}]


def resized(transform: Sequence[Any], size: int) -> List[Any]:
    """A transform list for images of `size` pixels that normalises as `transform` does."""
    if size < 1:
        raise UserError(f"size {size}: images have at least 1 pixel; 224 is usual, 32 for CIFAR")
    kept = [step for step in transform if isinstance(step, Mapping) and set(step) & {"Normalize", "NormalizeImage"}]
    return [*evaluation_transform(size)[:2], *(kept or evaluation_transform(size)[2:])]


@dataclass(frozen=True)
class Description:
    """model: the Model section of a config, of which `backbone` builds the network. transform: a transform list as in a
    config. Both are empty when it is not known."""

    model: Dict[str, Any] = field(default_factory=dict)
    transform: List[Any] = field(default_factory=list)

    @property
    def backbone(self) -> Dict[str, Any]:
        return self.model.get("backbone") or {}

    @property
    def stem(self) -> Optional[str]:
        """None when it is not said; a trunk of another kind has none."""
        return self.backbone.get("stem")

    def plain(self) -> Dict[str, Any]:
        """As dictionaries, lists and plain values, for the file."""
        return json.loads(json.dumps({"model": self.model, "transform": list(self.transform)}))


def read_description(meta: Mapping[str, Any]) -> Description:
    """The entry in the rest of a checkpoint, an empty one without any; CheckpointError when it is not what we write."""
    entry = meta.get(DESCRIPTION)
    if entry is None:
        return Description()
    try:
        found = Description(**entry)
        good = isinstance(found.model, dict) and isinstance(found.transform, list) and isinstance(found.backbone, dict)
    except TypeError:
        good = False
    if not good:
        raise CheckpointError(f"the entry '{DESCRIPTION}' is damaged; drop it from the file, and say --stem and --size")
    return found


def told(checkpoint: Checkpoint, stem: Optional[str] = None, size: Optional[int] = None) -> Checkpoint:
    """The checkpoint with a description that says what the user says: a key of STEMS, and pixels."""
    if stem is not None and stem not in STEMS:
        raise UserError(f"stem '{stem}' is not known; choose one of {', '.join(STEMS)}")
    found = read_description(checkpoint.meta)
    if stem is not None:
        found = replace(found, model={**found.model, "backbone": {**found.backbone, "stem": stem}})
    if size is not None:
        found = replace(found, transform=resized(found.transform, size))
    if found == Description():
        return checkpoint
    return replace(checkpoint, meta={**checkpoint.meta, DESCRIPTION: found.plain()})
