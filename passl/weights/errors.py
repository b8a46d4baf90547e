"""What goes wrong with a weight file, as two kinds of error."""
from __future__ import annotations


class CheckpointError(ValueError):
    """A weight file that is damaged, truncated, of unknown format, or that does not fit the model."""


class UnsafeCheckpoint(CheckpointError):
    """A weight file that asks for more than plain values and arrays; nothing of it was executed."""
