"""Weights of PyTorch, Paddle, safetensors and numpy files: read safely, recognised by keys, converted both ways."""
from __future__ import annotations

from .convert import convert, convert_file, to_passl_state
from .errors import CheckpointError, UnsafeCheckpoint
from .found import Found
from .pickle_values import Inert
from .reader import Checkpoint, read, read_tree, widen
from .recognise import recognise
from .report import LoadReport, load_into

__all__ = ["Checkpoint", "CheckpointError", "Found", "Inert", "LoadReport", "UnsafeCheckpoint", "convert",
           "convert_file", "load_into", "read", "read_tree", "recognise", "to_passl_state", "widen"]
