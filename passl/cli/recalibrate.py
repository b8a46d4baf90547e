"""`passl-recalibrate MODEL IMAGES... --size 224 --output FOLDER`: batch-norm statistics measured at one resolution."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Optional, Sequence

from passl.cli.model_options import make_model_parser, open_model, require_one_process, require_weights
from passl.cli.run import run_guarded
from passl.errors import UserError


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Entry point of the command."""
    parser = make_model_parser("passl-recalibrate", "Multi-crop pretraining leaves batch-norm statistics that lean to "
                               "the small crops. Measure them anew on images of one size and write weights, config and "
                               "class names to a folder that is opened like a run. The published results use them as "
                               "they are.")
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="training images: folders or list files")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--count", type=int, default=10000, help="images to use, spread over all that are given")
    parser.add_argument("--skip-unreadable", action="store_true", help="take another image for a damaged file instead "
                        "of stopping")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where passl.pdparams, config.yaml and "
                        "classes.txt go")
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
    from passl.data.augment.transforms import ImageTransform
    from passl.data.sources import ImageFiles
    from passl.evaluation.recalibration import recalibrate_batch_norm
    from passl.inference.card import evaluation_transform, run_config, save_run
    from passl.inference.stream import find_images, stream

    samples = find_images(options.images)
    step = max(1, len(samples) // options.count)
    used = ImageFiles([samples.path(index) for index in range(0, len(samples), step)][:options.count])
    if len(used) < options.batch_size:
        raise UserError(f"{len(used)} images make no whole batch of {options.batch_size}, and only whole batches are "
                        f"measured: give more images or --batch-size {len(used)}")
    mean, std = ImageTransform(list(model.card.transform)).normalization
    model.card.transform = evaluation_transform(options.size, mean, std)
    # The stream only prepares images here; whole batches, so that all count alike.
    batches = stream(model, used, lambda images: images, options.batch_size, options.workers, options.skip_unreadable)
    prepared = (batch.output for batch in batches if len(batch.readable) == options.batch_size)
    images = recalibrate_batch_norm(model, prepared)
    save_run(Path(options.output), model, run_config(Path(model.card.source)))
    print(f"batch norm measured on {images} images of {options.size} pixels: {options.output}")


if __name__ == "__main__":
    sys.exit(main())
