"""`passl-report MODEL [MODEL ...] FOLDER --output report.html`: clusters, map, duplicates and outliers to look at."""
from __future__ import annotations

import argparse
import os
from typing import Optional, Sequence

import passl
from passl.cli.model_options import MODEL_HELP, check_output, prepare_models, require_one_process
from passl.cli.run import add_engine, run_guarded

STAGES = {"network": "pictures through the network", "pictures": "thumbnails", "neighbours": "nearest neighbours",
          "map": "map", "classes": "comparison with the class folders", "duplicates": "near duplicates"}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(prog="passl-report", description="Write one HTML file that opens without network: "
                                     "how the run went, the clusters as a gallery, a map of all pictures, neighbours, "
                                     "near duplicates and outliers. Several models are shown side by side.")
    parser.add_argument("models", nargs="+", type=os.path.expanduser, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("images", type=os.path.expanduser, metavar="FOLDER", help="images to look at: a folder, with "
                        "one sub-folder for each class or without, or a list file of paths")
    parser.add_argument("--output", default="report.html", type=os.path.expanduser, metavar="FILE",
                        help="the page: %(default)s")
    parser.add_argument("--language", choices=("en", "zh"), default="en", help="what the page opens in; a button on it "
                        "changes it")
    parser.add_argument("--thumbnails", type=int, default=96, metavar="PIXELS", help="longer side of a picture on the "
                        "page, %(default)s at most; pictures become smaller when the page would be larger than "
                        "--megabytes")
    parser.add_argument("--megabytes", type=float, default=25.0, metavar="MB", help="size that the page may have: "
                        "%(default)s")
    parser.add_argument("--thumbnails-folder", action="store_true", help="put the pictures into a folder beside the "
                        "page, at full size: for more than about 20,000 images")
    parser.add_argument("--map", choices=("tsne", "umap", "pca"), default="tsne", help="how pictures are laid out: "
                        "%(default)s; umap is faster beyond 5,000 images and needs umap-learn")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu", "xpu", "npu"))
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images per forward pass")
    add_engine(parser)
    parser.add_argument("--workers", type=int, default=None, metavar="N", help="processes that decode; 0 decodes in "
                        "the main process; default: one a core, at most 8, and none for few images")
    parser.add_argument("--threads", type=int, default=None, metavar="N", help="CPU threads of the network; default: "
                        "all cores")
    parser.add_argument("--version", action="version", version=f"passl {passl.__version__}")
    options = parser.parse_args(arguments)
    require_one_process(parser)
    check_output(parser, options.output)
    if options.thumbnails < 16:
        parser.error(f"--thumbnails {options.thumbnails}: nothing can be seen on fewer than 16 pixels")
    return run_guarded(parser.prog, lambda: report(options))


def report(options) -> None:
    prepare_models(options)
    from passl.report.collect import collect_report
    from passl.report.page import write_page

    contents = collect_report(options.models, options.images, map_method=options.map, batch_size=options.batch_size,
                              thumbnail_side=options.thumbnails, workers=options.workers, engine=options.engine,
                              on_stage=lambda stage: print(f"{STAGES.get(stage, stage)} ...", flush=True))
    page = write_page(contents, options.output, options.language, options.megabytes, options.thumbnails,
                      options.thumbnails_folder)
    for view in contents.networks:
        for clustering in view.clusterings:
            used = len(set(clustering.assigned.tolist()))
            agreement = f", NMI {clustering.metrics['nmi']:.3f}" if clustering.metrics else ""
            print(f"{view.name}, {clustering.name}: {len(contents.names)} images in {used} of {clustering.count} "
                  f"clusters{agreement}")
    print(f"{len(contents.duplicates)} sets of near duplicates; {len(contents.unreadable)} files could not be read")
    took = ", ".join(f"{STAGES.get(name, name)} {value:.1f} s" for name, value in contents.seconds.items())
    print(f"{took}\n{page}: {os.path.getsize(page) / 1e6:.1f} MB")
