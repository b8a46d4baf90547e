"""Host batches of the loader as normalised tensors on the device, whole or in micro-batches."""
from __future__ import annotations

import math
from typing import Any, Callable, Dict, List, Mapping

import paddle


def on_device(host_batch: Mapping[str, Any], normalize: Callable[[paddle.Tensor], paddle.Tensor]) -> Dict[str, Any]:
    """uint8 arrays [B, S, S, 3] to normalised float tensors [B, 3, S, S]; labels and indices to int64 tensors [B].

    Keys are the loader's: `crops`, a list with one array for each crop, or `image`; `index`, `label`, `valid`.
    """
    batch: Dict[str, Any] = {}
    for key, value in host_batch.items():
        if key == "crops":
            batch[key] = [normalize(paddle.to_tensor(crop)) for crop in value]
        else:
            tensor = paddle.to_tensor(value)
            batch[key] = normalize(tensor) if key == "image" else tensor
    return batch


def split(host_batch: Mapping[str, Any], count: int) -> List[Mapping[str, Any]]:
    """A host batch cut into `count` parts of equal size, in order; the last is smaller when that does not divide it."""
    if count == 1:
        return [host_batch]
    size = math.ceil(len(host_batch["index"]) / count)
    return [{key: [crop[start:start + size] for crop in value] if key == "crops" else value[start:start + size]
             for key, value in host_batch.items()} for start in range(0, len(host_batch["index"]), size)]
