"""`passl-predict MODEL IMAGES...`: classes and probabilities of images."""
from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import List, Optional, Sequence

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
    parser = make_model_parser("passl-predict", "Classify images with a trained probe or fine-tuned model.")
    add_images(parser, "leave damaged files out instead of stopping")
    add_forward_pass(parser)
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="answers for each image")
    parser.add_argument("--classes", type=os.path.expanduser, metavar="FILE",
                        help="class names, one a line, for weights that bring none")
    parser.add_argument("--output", type=os.path.expanduser, metavar="FILE",
                        help="write .json or .csv instead of lines on the terminal")
    options = parser.parse_args(arguments)
    require_one_process(parser)
    if options.top_k < 1:
        parser.error(f"--top-k {options.top_k}: it must be at least 1")
    check_output(parser, options.output)
    if options.output and Path(options.output).suffix not in (".json", ".csv"):
        parser.error(f"--output {options.output}: the suffix must be .json or .csv")
    return run_guarded(parser.prog, lambda: predict(options))


def predict(options) -> None:
    model = open_model(options)
    from passl.inference.card import read_class_names
    from passl.inference.engine import Engine
    from passl.inference.images import find_images
    from passl.inference.predict import predictions, require_classifier

    require_classifier(model)
    classes = read_class_names(Path(options.classes)) if options.classes else None
    if options.classes and not classes:
        problem = "there are no names in it" if Path(options.classes).is_file() else "there is no such file"
        raise UserError(f"--classes {options.classes}: {problem}; wanted is one class name a line, in the order of "
                        "the outputs")
    samples = find_images(options.images)
    engine = Engine(model, options.batch_size, options.workers, options.skip_unreadable, options.engine)
    results: List[dict] = []
    for index, result in predictions(engine, samples, classes, options.top_k):
        path = samples.path(index)
        results.append({"path": path, "predictions": [{"class": name, "score": score}
                                                      for name, score in result["top"]]})
        if not options.output:
            print(f"{path}: " + ", ".join(f"{name} {100 * score:.1f}%" for name, score in result["top"]), flush=True)
    if options.output:
        write(Path(options.output), results)


def write(path: Path, results: List[dict]) -> None:
    """JSON as it is, or CSV with one line for each image and rank."""
    with files.written_text(path) as file:
        if path.suffix == ".json":
            json.dump(results, file, indent=1)
            return
        writer = csv.writer(file)
        writer.writerow(["path", "rank", "class", "score"])
        for result in results:
            for rank, prediction in enumerate(result["predictions"], 1):
                writer.writerow([result["path"], rank, prediction["class"], f"{prediction['score']:.6f}"])
