"""`passl-export`: a trained network as a Paddle inference model or ONNX."""
from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, List, Mapping, Optional

import passl
from passl.cli.model_options import MODEL_HELP, add_geometry, geometry
from passl.cli.run import run_guarded
from passl.errors import UserError


def main(arguments: Optional[List[str]] = None) -> int:
    """Entry point of the command: `-c config.yaml -o ...` as in PASSL, or `--model` without a config."""
    parser = argparse.ArgumentParser(
        prog="passl-export", description="Write an inference model and check its output against the live network. The "
        "input is the normalised image batch, the output logits for a classifier and features for everything else.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("-c", "--config", type=os.path.expanduser, metavar="FILE",
                        help="a training config; the network of its Model section "
                        "with Global.pretrained_model is exported to <output_dir>/<Model.name>, as Export says")
    source.add_argument("--model", type=os.path.expanduser, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("-o", "--override", action="extend", nargs="+", default=[], metavar="KEY=VALUE",
                        help="change one key of the config")
    parser.add_argument("--to", type=os.path.expanduser, metavar="PREFIX",
                        help="files to write, without suffix; needed with --model")
    parser.add_argument("--output", choices=("auto", "features", "logits", "embedding"), default="auto",
                        help="what the exported network computes")
    parser.add_argument("--size", type=int, default=None, metavar="PIXELS", help="side of the input; default: what the "
                        "config's Export section or the model's own transform says")
    add_geometry(parser, size=False)
    parser.add_argument("--format", choices=("paddle", "onnx"), default=None)
    parser.add_argument("--version", action="version", version=f"passl {passl.__version__}")
    options = parser.parse_args(arguments)
    if options.model and not options.to:
        parser.error("--model needs --to PREFIX")
    if options.config and options.stem:
        parser.error("--stem goes with --model; a config has Model.backbone.stem")
    if options.to and Path(options.to).suffix in (".json", ".pdmodel", ".pdiparams", ".onnx"):
        parser.error(f"--to {options.to}: give it without suffix, several files are written")
    if options.size is not None and options.size < 1:
        parser.error(f"--size {options.size}: it must be at least 1")
    return run_guarded(parser.prog, lambda: export_model(options))


def export_model(options) -> None:
    from passl.engine import environment

    environment.prepare(cpu=True)
    environment.select_device("cpu")  # tracing needs no speed, and the check compares like with like
    section: Mapping[str, Any] = {}
    prefix = options.to
    if options.config:
        from passl.engine.session import read
        from passl.inference.from_config import model_of_config
        from passl.weights.locate import find_weights

        config = read(options.config, options.override, trains=False)
        section = config.get("Export") or {}
        prefix = prefix or str(Path(config.Global.output_dir) / config.Model.name)
        name = config.Global.pretrained_model or config.Global.checkpoint
        if not name:
            raise UserError("nothing to export: set Global.pretrained_model to trained weights")
        model = model_of_config(config, find_weights(name))
    else:
        model = passl.get_model(options.model, **geometry(options))
    from passl.cli.model_options import require_weights
    from passl.inference.card import prepared_size
    from passl.inference.export import export

    require_weights(model)
    height, width = prepared_size(model.card.transform) or (224, 224)
    shape = section.get("input_shape") or [None, 3, height, width]
    if options.size:
        shape = [shape[0], 3, options.size, options.size]
    for file in export(model, Path(prefix), shape, options.output, options.format or section.get("export_type",
                                                                                                 "paddle")):
        print(file)
    print(f"input: normalised float32 [{', '.join('any' if size is None else str(size) for size in shape)}]")
