"""Weights of PyTorch, Paddle, safetensors and numpy files: read safely, recognised by keys, converted both ways."""
from __future__ import annotations

from passl.errors import CheckpointError, UnsafeCheckpoint
from passl.weights.formats.pickle_values import Inert
from passl.weights.formats.reader import Checkpoint, read, read_tree, widen
from passl.weights.layouts.convert import convert, convert_file, to_passl_state
from passl.weights.layouts.found import Found
from passl.weights.layouts.recognise import recognise
from passl.weights.load import LoadReport, load_into

__all__ = ["Checkpoint", "CheckpointError", "Found", "Inert", "LoadReport", "UnsafeCheckpoint", "convert",
           "convert_file", "load_into", "read", "read_tree", "recognise", "to_passl_state", "widen"]
