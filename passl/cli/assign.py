"""`passl-assign MODEL IMAGES... --output clusters.csv`: the cluster of each image."""
from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Optional, Sequence

import passl
from passl import files
from passl.cli.model_options import (
    add_forward_pass,
    add_images,
    check_output,
    make_model_parser,
    open_model,
    require_one_process,
)
from passl.cli.run import run_guarded
from passl.errors import UserError


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Entry point of the command."""
    parser = make_model_parser("passl-assign", "Sort images into the clusters (prototypes) of a pretrained network. In "
                               "a folder with one sub-folder per class the agreement with the classes is printed.")
    add_images(parser, "leave damaged files out instead of stopping")
    add_forward_pass(parser)
    parser.add_argument("--output", type=os.path.expanduser, metavar="FILE",
                        help="CSV: path, then cluster and confidence for each head")
    parser.add_argument("--links", type=os.path.expanduser, metavar="FOLDER",
                        help="make FOLDER/cluster_0012/<image> links, to look at clusters")
    parser.add_argument("--balanced", action="store_true", help="assign all images together by Sinkhorn, about equally "
                        "many to each cluster; without it each image goes to its nearest prototype")
    parser.add_argument("--epsilon", type=float, default=None, help="of --balanced: smaller follows the scores more; "
                        "default: the run's, else 0.05")
    parser.add_argument("--temperature", type=float, default=None, help="of the confidence without --balanced; "
                        "default: the run's, else 0.1")
    parser.add_argument("--metrics", type=os.path.expanduser, metavar="FILE", help="write what is printed as JSON")
    parser.add_argument("--iterations", type=int, default=3, help="of --balanced: more makes the sizes more equal")
    options = parser.parse_args(arguments)
    require_one_process(parser)
    if not options.output and not options.links:
        parser.error("say where the result goes: --output FILE, --links FOLDER, or both")
    for name in ("epsilon", "temperature"):
        if getattr(options, name) is not None and not getattr(options, name) > 0:
            parser.error(f"--{name} {getattr(options, name)}: it must be above 0")
    check_output(parser, options.output)
    check_output(parser, options.metrics, "--metrics")
    return run_guarded(parser.prog, lambda: assign(options))


def assign(options) -> None:
    model = open_model(options)
    from passl.inference.assign import trained_settings
    from passl.inference.images import find_images

    if options.links and Path(options.links).exists() and any(Path(options.links).iterdir()):
        raise UserError(f"--links {options.links} is not empty: choose another folder or remove it")
    given = {name: getattr(options, name) for name in ("temperature", "epsilon")}
    settings = {**trained_settings(model), **{name: value for name, value in given.items() if value is not None}}
    samples = find_images(options.images)
    result = passl.assign(model, samples, options.balanced, iterations=options.iterations, **settings,
                          batch_size=options.batch_size, workers=options.workers,
                          skip_unreadable=options.skip_unreadable, engine=options.engine)
    paths = [samples.path(int(index)) for index in result.index]
    if options.output:
        write_csv(Path(options.output), paths, result)
    if options.links:
        make_links(Path(options.links), paths, result.clusters[:, 0])
    heads = result.summary(samples.labels[result.index])
    for found in heads:
        print(f"head {found['head']}: {len(paths)} images in {found['used']} of {found['prototypes']} clusters, mean "
              f"confidence {found['confidence']:.3f}")
        if "nmi" in found:
            print(json.dumps(found))
    if not any("nmi" in found for found in heads):
        print("the images have no classes, so no agreement with classes is measured")
    unreadable = len(samples) - len(paths)
    if unreadable:
        print(f"{unreadable} images could not be read and are left out")
    if options.metrics:
        files.write_text(options.metrics, json.dumps({"model": options.model, "unreadable": unreadable, **settings,
                                                      "heads": heads}, indent=1))


def write_csv(path: Path, paths: Sequence[str], result) -> None:
    """One line an image; with several heads the columns are numbered."""
    heads = result.clusters.shape[1]
    ends = [""] if heads == 1 else [f"_{head}" for head in range(heads)]
    with files.written_text(path) as file:
        writer = csv.writer(file)
        writer.writerow(["path", *(f"{name}{end}" for end in ends for name in ("cluster", "confidence"))])
        for image, clusters, confidence in zip(paths, result.clusters.tolist(), result.confidence.tolist()):
            writer.writerow([image, *(value for pair in zip(clusters, (f"{c:.6f}" for c in confidence))
                                      for value in pair)])


def make_links(folder: Path, paths: Sequence[str], clusters) -> None:
    """A tree of links by cluster of the first head; images of the same file name get their row in front."""
    for row, (image, cluster) in enumerate(zip(paths, clusters)):
        place = folder / f"cluster_{int(cluster):04d}"
        place.mkdir(parents=True, exist_ok=True)
        link = place / os.path.basename(image)
        os.symlink(os.path.abspath(image), link.with_name(f"{row}_{link.name}") if link.is_symlink() else link)
