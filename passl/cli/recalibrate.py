"""`passl-recalibrate MODEL IMAGES... --size 224 --output FOLDER`: batch-norm statistics measured at one resolution."""
from __future__ import annotations

import os
from typing import Optional, Sequence

import passl
from passl.cli.model_options import add_images, make_model_parser, open_model, require_one_process, require_weights
from passl.cli.run import run_guarded


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Entry point of the command."""
    parser = make_model_parser("passl-recalibrate", "Multi-crop pretraining leaves batch-norm statistics that lean to "
                               "the small crops. Measure them anew on images of one size and write weights, config and "
                               "class names to a folder that is opened like a run. The published results use them as "
                               "they are.", size=False)
    add_images(parser, "take another image for a damaged file instead of stopping")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--count", type=int, default=10000, help="images to use, spread over all that are given")
    parser.add_argument("--output", required=True, type=os.path.expanduser, metavar="FOLDER",
                        help="where passl.pdparams, config.yaml and classes.txt go")
    options = parser.parse_args(arguments)
    require_one_process(parser)
    if options.count < 1 or options.size < 1:
        parser.error(f"--count {options.count} and --size {options.size} must be at least 1")
    if options.output.endswith(".pdparams"):
        parser.error(f"--output {options.output}: name a folder; weights alone would lose how images are prepared")
    return run_guarded(parser.prog, lambda: recalibrate(options))


def recalibrate(options) -> None:
    model = open_model(options)
    require_weights(model)
    images = passl.recalibrate(model, options.images, options.output, options.size, options.count, options.batch_size,
                               options.workers, options.skip_unreadable)
    print(f"batch norm measured on {images} images of {options.size} pixels: {options.output}")
