"""`passl-embed MODEL IMAGES... --output FOLDER`: features of images as .npy with an index."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Optional, Sequence

from passl.cli.model_options import make_model_parser, open_model, require_one_process, require_weights
from passl.cli.run import run_guarded


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Entry point of the command."""
    parser = make_model_parser("passl-embed", "Write the features of images: features.npy [N, F] and index.csv. Called "
                               "again after an interruption it continues.")
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="image files, folders, or list files of paths")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where features.npy and index.csv go")
    parser.add_argument("--skip-unreadable", action="store_true", help="give damaged files a row of NaN instead of "
                        "stopping")
    options = parser.parse_args(arguments)
    require_one_process(parser)

    def embed() -> None:
        model = open_model(options)
        require_weights(model)
        from passl.inference.embed import embed_to_folder
        from passl.inference.stream import find_images

        summary = embed_to_folder(model, find_images(options.images), Path(options.output), options.batch_size,
                                  options.workers, options.skip_unreadable)
        new = summary["images"] - summary["continued_from"]
        print(f"{summary['images']} images in {options.output}/features.npy, {new} of them now at "
              f"{new / max(summary['seconds'], 1e-9):.1f} images/s")
        if summary["unreadable"]:
            print(f"unreadable: {', '.join(summary['unreadable'][:5])}"
                  f"{' ...' if len(summary['unreadable']) > 5 else ''} ({len(summary['unreadable'])} in all)")

    return run_guarded(parser.prog, embed, f"what is done is kept in {options.output}: call again to continue")


if __name__ == "__main__":
    sys.exit(main())
