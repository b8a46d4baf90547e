"""`passl-embed MODEL IMAGES... --output FOLDER`: features of images as .npy with an index."""
from __future__ import annotations

import os
from typing import Optional, Sequence

import passl
from passl.cli.model_options import (
    add_forward_pass,
    add_images,
    make_model_parser,
    open_model,
    require_one_process,
    require_weights,
)
from passl.cli.run import run_guarded


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Entry point of the command."""
    parser = make_model_parser("passl-embed", "Write the features of images: features.npy [N, F] and index.csv. Called "
                               "again after an interruption it continues.")
    add_images(parser, "give damaged files a row of NaN instead of stopping")
    add_forward_pass(parser)
    parser.add_argument("--output", required=True, type=os.path.expanduser, metavar="FOLDER",
                        help="where features.npy and index.csv go")
    options = parser.parse_args(arguments)
    require_one_process(parser)
    return run_guarded(parser.prog, lambda: embed(options),
                       f"what is done is kept in {options.output}: call again to continue")


def embed(options) -> None:
    model = open_model(options)
    require_weights(model)
    result = passl.embed_folder(model, options.images, options.output, options.batch_size, options.workers,
                                options.skip_unreadable, options.engine)
    new = result.images - result.continued_from
    print(f"{result.images} images in {options.output}/features.npy, {new} of them now at "
          f"{new / max(result.seconds, 1e-9):.1f} images/s")
    if result.unreadable:
        print(f"unreadable: {', '.join(result.unreadable[:5])}{' ...' if len(result.unreadable) > 5 else ''} "
              f"({len(result.unreadable)} in all)")
