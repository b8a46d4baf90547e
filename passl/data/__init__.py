"""Images in, batches of uint8 crops out: datasets, transforms, samplers and the loader with its worker processes."""
from __future__ import annotations

from passl.data.loader import Loader, build_loader
from passl.errors import DataError

__all__ = ["DataError", "Loader", "build_loader"]
