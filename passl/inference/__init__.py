"""Using a trained network from Python: build or load it, then classify, embed or cluster images of any kind."""
from __future__ import annotations

from passl.inference.get_model import get_model, list_models
from passl.inference.use import Clusters, assign, embed, inference_model

__all__ = ["Clusters", "assign", "embed", "get_model", "inference_model", "list_models"]
