"""What a converted Paddle file remembers of its source, under the key `passl.conversion`.

Paddle has no place for BatchNorm's `num_batches_tracked`, nor for the key order and names of another library. Paddle's
own loaders skip the entry; `--to torch` restores the source from it.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Mapping, Optional

from passl.errors import CheckpointError

CONVERSION = "passl.conversion"


@dataclass
class Notes:
    """layout, container: what the source was (`Found`). names: key of the source -> canonical name, in its order.

    prefix: what every key began with. counters: BatchNorm -> num_batches_tracked. epoch: None when unknown.
    """

    layout: str = ""
    container: str = ""
    prefix: str = ""
    epoch: Optional[int] = None
    names: Dict[str, str] = field(default_factory=dict)
    counters: Dict[str, int] = field(default_factory=dict)

    def plain(self) -> Dict[str, Any]:
        """As dictionaries and plain values, for the file."""
        return asdict(self)


def read_notes(meta: Mapping[str, Any]) -> Optional[Notes]:
    """The notes in the rest of a checkpoint; None without any; CheckpointError when they are not what we write."""
    entry = meta.get(CONVERSION)
    if entry is None:
        return None
    try:
        notes = Notes(**entry)
    except TypeError:
        raise CheckpointError(f"the entry '{CONVERSION}' is not one of passl-convert; drop it from the file") from None
    good = (all(isinstance(text, str) for text in (notes.layout, notes.container, notes.prefix))
            and (notes.epoch is None or _is_count(notes.epoch))
            and isinstance(notes.names, dict) and isinstance(notes.counters, dict)
            and all(isinstance(text, str) for pair in notes.names.items() for text in pair)
            and all(isinstance(name, str) and _is_count(value) for name, value in notes.counters.items()))
    if not good:
        raise CheckpointError(f"the entry '{CONVERSION}' is damaged; drop it from the file")
    return notes


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63
