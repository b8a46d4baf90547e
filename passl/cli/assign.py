"""`passl-assign MODEL IMAGES... --output clusters.csv`: the cluster of each image."""
from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import List, Optional, Sequence

from passl.cli.models import make_model_parser, open_model
from passl.cli.run import run_guarded


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Entry point of the command."""
    parser = make_model_parser("passl-assign", "Sort images into the clusters (prototypes) of a pretrained network. In "
                               "a folder with one sub-folder per class the agreement with the classes is printed.")
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="image files, folders, or list files of paths")
    parser.add_argument("--output", metavar="FILE", help="CSV: path, then cluster and confidence for each head")
    parser.add_argument("--links", metavar="FOLDER", help="make FOLDER/cluster_0012/<image> links, to look at clusters")
    parser.add_argument("--balanced", action="store_true", help="assign all images together by Sinkhorn, about equally "
                        "many to each cluster; without it each image goes to its nearest prototype")
    parser.add_argument("--epsilon", type=float, default=0.05, help="of --balanced: smaller follows the scores more")
    parser.add_argument("--iterations", type=int, default=3, help="of --balanced: more makes the sizes more equal")
    options = parser.parse_args(arguments)
    if not options.output and not options.links:
        parser.error("say where the result goes: --output FILE, --links FOLDER, or both")
    return run_guarded(parser.prog, lambda: assign(options))


def assign(options) -> None:
    model = open_model(options)
    import numpy as np

    from passl.evaluation.cluster_metrics import cluster_metrics
    from passl.inference.stream import find_images, stream
    from passl.inference.use import assign_scores, score_function

    samples = find_images(options.images)
    parts: List[List[np.ndarray]] = []
    for batch in stream(model, samples, score_function(model), options.batch_size, options.workers):
        parts.append([head.astype("float32").numpy() for head in batch.output])
    scores = [np.concatenate(head) for head in zip(*parts)]
    result = assign_scores(scores, options.balanced, epsilon=options.epsilon, iterations=options.iterations)
    paths = [samples.path(index) for index in range(len(samples))]
    if options.output:
        write_csv(Path(options.output), paths, result)
    if options.links:
        make_links(Path(options.links), paths, result.clusters[:, 0])
    for head in range(len(scores)):
        used = len(np.unique(result.clusters[:, head]))
        print(f"head {head}: {len(paths)} images in {used} of {scores[head].shape[1]} clusters, mean confidence "
              f"{result.confidence[:, head].mean():.3f}")
        if (samples.labels >= 0).any():
            print(json.dumps(cluster_metrics(result.clusters[:, head], samples.labels)))


def write_csv(path: Path, paths: Sequence[str], result) -> None:
    """One line an image; with several heads the columns are numbered."""
    heads = result.clusters.shape[1]
    ends = [""] if heads == 1 else [f"_{head}" for head in range(heads)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *(f"{name}{end}" for end in ends for name in ("cluster", "confidence"))])
        for image, clusters, confidence in zip(paths, result.clusters.tolist(), result.confidence.tolist()):
            writer.writerow([image, *(value for pair in zip(clusters, (f"{c:.6f}" for c in confidence))
                                      for value in pair)])


def make_links(folder: Path, paths: Sequence[str], clusters) -> None:
    """A tree of links by cluster of the first head; images of the same file name get their row in front."""
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--links {folder} is not empty: choose another folder or remove it")
    for row, (image, cluster) in enumerate(zip(paths, clusters)):
        place = folder / f"cluster_{int(cluster):04d}"
        place.mkdir(parents=True, exist_ok=True)
        link = place / os.path.basename(image)
        os.symlink(os.path.abspath(image), link.with_name(f"{row}_{link.name}") if link.is_symlink() else link)


if __name__ == "__main__":
    sys.exit(main())
