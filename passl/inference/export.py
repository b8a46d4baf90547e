"""A network as a static inference model, for Paddle Inference or ONNX, checked against the live one."""
from __future__ import annotations

import contextlib
import importlib.util
import warnings
from pathlib import Path
from typing import List, Optional, Sequence

import numpy as np
import paddle
from paddle import nn

from passl.errors import UserError
from passl.files import PathLike
from passl.inference.card import card_of
from passl.inference.engine import evaluation_mode
from passl.inference.exported import model_files, run_exported
from passl.inference.predict import require_classifier
from passl.models.base import Network

OUTPUTS = ("auto", "features", "logits", "embedding")
TOLERANCE = 1e-5


class InferenceNetwork(nn.Layer):
    """Normalised images [B, 3, H, W] -> one output of a network."""

    def __init__(self, network: Network, output: str):
        super().__init__()
        self.network, self.output = network, output

    def forward(self, images):
        output = self.network.outputs(images, [self.output])[self.output]
        return nn.functional.normalize(output, axis=1, epsilon=1e-12) if self.output == "embedding" else output


def decide_output(model: Network, output: str) -> str:
    """`auto` is logits for a classifier and features for everything else; UserError for what a model cannot give."""
    if output == "auto":
        output = "logits" if "logits" in model.output_heads else "features"
    if output == "logits":
        require_classifier(model)
    if output == "embedding":
        card = card_of(model)
        if "embedding" not in model.output_heads:
            raise UserError(f"{card.name} has no projection head, so it has no embedding: export features")
        if not card.has_embedding:
            raise UserError(f"the projection head of {card.name} is untrained: export features, or give the weights "
                            "of a pretraining run")
    return output


def export(model: Network, prefix: PathLike, input_shape: Sequence[Optional[int]] = (None, 3, 224, 224),
           output: str = "auto", export_type: str = "paddle") -> List[Path]:
    """Write `<prefix>.json` or `.pdmodel` with `<prefix>.pdiparams` (Paddle 3 or 2), or `<prefix>.onnx`.

    input_shape: batch, channels, height, width; None is any size. The input is normalised float32. Returns the files
    written. RuntimeError when the exported model's output differs from the live one by more than 1e-5 of its largest
    value (ONNX is run by onnxruntime; a warning when it is not installed); ValueError for an output the model cannot
    give, or ONNX without paddle2onnx.

    Example:
        >>> import passl
        >>> model = passl.get_model("resnet10", base_channels=4, stem="small")
        >>> files = passl.export(model, "exported/trunk", [None, 3, 32, 32])
        >>> [file.name for file in files if file.suffix == ".pdiparams"]
        ['trunk.pdiparams']
    """
    prefix = Path(prefix).expanduser()
    if len(input_shape) != 4 or input_shape[1] != 3:
        raise UserError(f"input_shape is [batch, 3, height, width] with null for any size, got {list(input_shape)}")
    if export_type == "onnx" and importlib.util.find_spec("paddle2onnx") is None:
        raise UserError("exporting ONNX needs paddle2onnx: pip install 'passl[onnx]'")
    network = InferenceNetwork(model, decide_output(model, output))
    prefix.parent.mkdir(parents=True, exist_ok=True)
    spec = [paddle.static.InputSpec([-1 if size is None else size for size in input_shape], "float32", "images")]
    with evaluation_mode(network), paddle.no_grad():
        images = check_images(input_shape)
        live = network(paddle.to_tensor(images)).numpy()  # before to_static, which replaces the layer's forward
        if export_type == "onnx":
            return [_export_onnx(network, prefix, spec, images, live)]
        paddle.jit.save(paddle.jit.to_static(network, input_spec=spec, full_graph=True), str(prefix))
    _check(run_exported(prefix, images), live, f"{prefix}.*")
    return model_files(prefix)


def _export_onnx(network: nn.Layer, prefix: Path, spec, images: np.ndarray, live: np.ndarray) -> Path:
    file = prefix.with_name(prefix.name + ".onnx")
    with contextlib.suppress(ImportError):
        # Imported now it keeps its default. paddle2onnx would have it install packages by pip while it exports.
        import polygraphy.config  # noqa: F401
    paddle.onnx.export(network, str(prefix), input_spec=spec, opset_version=13)
    try:
        import onnxruntime
    except ImportError:
        warnings.warn(f"{file} was not checked against the live network: pip install onnxruntime", stacklevel=3)
        return file
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    output, = session.run(None, {session.get_inputs()[0].name: images})
    _check(output, live, str(file))
    return file


def _check(exported: np.ndarray, live: np.ndarray, files: str) -> None:
    """RuntimeError unless both outputs are the same to rounding; NaN is never the same."""
    difference = float(np.abs(exported - live).max() / max(np.abs(live).max(), 1e-12))
    if not difference <= TOLERANCE:
        raise RuntimeError(f"the exported model's output differs from the live one by {difference:.1e} of its largest "
                           f"value (allowed: {TOLERANCE:.0e}); {files} {'are' if '*' in files else 'is'} not usable")


def check_images(input_shape: Sequence[Optional[int]]) -> np.ndarray:
    """A fixed random batch of the shape an export takes; three images where the batch may be of any size."""
    batch, _, height, width = input_shape
    return np.random.RandomState(0).normal(size=[batch or 3, 3, height or 224, width or 224]).astype(np.float32)
