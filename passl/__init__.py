"""Self-supervised clustering for image backbones on PaddlePaddle: SwAV and its family.

    model = passl.get_model("output/swav_resnet18_pretrain")
    features = passl.embed(model, "folder/of/images")

The names below are imported when they are first used: `import passl` does not import Paddle.
"""
from __future__ import annotations

import importlib

__version__ = "0.1.0"

_LAZY = {
    "assign": "passl.inference.assign",
    "embed": "passl.inference.embed",
    "embed_folder": "passl.inference.embed",
    "evaluate": "passl.engine.evaluate",
    "export": "passl.inference.export",
    "get_model": "passl.inference.get_model",
    "inference_model": "passl.inference.predict",
    "knn": "passl.inference.accuracy",
    "list_models": "passl.inference.get_model",
    "predict": "passl.inference.predict",
    "probe": "passl.inference.accuracy",
    "recalibrate": "passl.inference.recalibrate",
    "train": "passl.engine.session",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module("passl.engine.environment").use_avx2_on_amd()  # before Paddle's first product
    value = globals()[name] = getattr(importlib.import_module(_LAZY[name]), name)  # found directly from now on
    return value


def __dir__():
    return sorted({*globals(), *_LAZY})
