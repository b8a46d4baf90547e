"""`passl-eval -c config.yaml -o Global.pretrained_model=...`: accuracy of a trained probe or fine-tuned model."""
from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import List, Optional

from passl.cli.config_options import make_parser
from passl.cli.run import run_guarded
from passl.errors import UserError


def main(arguments: Optional[List[str]] = None) -> int:
    """Entry point of the command; needs Model and DataLoader.Eval of a config, no Optimizer."""
    parser = make_parser("passl-eval", "Evaluate a trained classifier on DataLoader.Eval; prints the metrics and "
                         "writes them as JSON, with the confusion matrix, to <output_dir>/<Model.name>/eval.",
                         trains=False)
    options = parser.parse_args(arguments)

    def evaluate() -> None:
        from passl.engine.session import start

        with start(options.config, options.override, "eval", trains=False) as config:
            results = run(config)
            from passl import distributed

            if distributed.rank() == 0:
                print(json.dumps(results, indent=1))

    return run_guarded(parser.prog, evaluate)


def run(config) -> dict:
    """Validate what `config` describes with its weights; rank 0 writes the files. Returns the metrics."""
    from passl import distributed
    from passl.engine.evaluations import build_validation
    from passl.engine.log import LOGGER, LogLines
    from passl.engine.precision import Precision
    from passl.errors import DataError
    from passl.evaluation.confusion_matrix import ConfusionMatrix
    from passl.evaluation.labelled_data import number_as_trained
    from passl.inference.card import class_names_of
    from passl.inference.from_config import build_classifier, is_classifier
    from passl.weights import load_into
    from passl.weights.locate import find_weights

    settings = config["Global"]
    weights = settings["pretrained_model"] or settings["checkpoint"]
    if not weights:
        raise UserError("nothing to evaluate: set Global.pretrained_model to the weights of a trained classifier, for "
                        "instance output/<Model.name>/best")
    if not (config.get("DataLoader") or {}).get("Eval"):
        raise DataError("DataLoader.Eval is missing: it names the images to evaluate on")
    if not is_classifier(config):
        raise UserError(f"{config['Model']['name']} has no classifier to evaluate: train a probe on it (a linearprobe "
                        "config), or use passl-knn")
    path = find_weights(weights)
    method = build_classifier(config, path)
    LOGGER.info(str(load_into(method.model, path, strict="all")))  # a random head would look like a bad result
    precision = Precision(config.get("FP16"), settings["device"])
    validation = build_validation(config, method, None, precision.autocast)
    number_as_trained(validation.loader.dataset, class_names_of(path), method.classes)
    matrix = next((metric for metric in validation.metrics if isinstance(metric, ConfusionMatrix)), None)
    if matrix is None:
        matrix = ConfusionMatrix()
        validation.metrics = [*validation.metrics, matrix]
    lines = LogLines(settings["print_batch_step"])
    before_training = -1  # PASSL logs an evaluation without training as epoch 0
    results = validation.run(method, partial(lines.on_evaluation_batch, before_training))
    lines.on_metrics(before_training, 0, results)
    counts = matrix.matrix()
    names = validation.loader.dataset.classes
    names = names if len(names) == len(counts) else [str(number) for number in range(len(counts))]
    validation.close()
    results = {**results, "images": int(counts.sum()), "weights": str(path)}
    if distributed.rank() == 0:
        write(Path(settings["output_dir"]) / config["Model"]["name"] / "eval", results, counts, names)
    return results


def write(folder: Path, results: dict, counts, names: List[str]) -> None:
    """metrics.json (with the accuracy of each class), confusion_matrix.csv and confusion_matrix.png."""
    from passl.evaluation.confusion_matrix import draw_png, write_csv

    folder.mkdir(parents=True, exist_ok=True)
    images = counts.sum(1)
    per_class = {name: float(counts[row, row] / images[row]) for row, name in enumerate(names) if images[row]}
    (folder / "metrics.json").write_text(json.dumps({**results, "class_accuracy": per_class}, indent=1))
    write_csv(counts, folder / "confusion_matrix.csv", names)
    draw_png(counts, folder / "confusion_matrix.png", names)


if __name__ == "__main__":
    sys.exit(main())
