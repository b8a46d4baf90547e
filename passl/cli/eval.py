"""`passl-eval -c config.yaml -o Global.pretrained_model=...`: accuracy of a trained probe or fine-tuned model."""
from __future__ import annotations

import json
from pathlib import Path
from typing import List, Optional

from passl.cli.run import add_engine, make_parser, run_guarded


def main(arguments: Optional[List[str]] = None) -> int:
    """Entry point of the command; needs Model and DataLoader.Eval of a config, no Optimizer."""
    parser = make_parser("passl-eval", "Evaluate a trained classifier on DataLoader.Eval; prints the metrics and "
                         "writes them as JSON, with the confusion matrix, to <output_dir>/<Model.name>/eval.",
                         trains=False)
    add_engine(parser)
    options = parser.parse_args(arguments)

    def evaluate() -> None:
        from passl.engine.session import start

        with start(options.config, options.override, "eval", trains=False) as config:
            from passl import distributed
            from passl.engine.evaluate import evaluate_config
            from passl.report.confusion_matrix import write_evaluation

            result = evaluate_config(config, options.engine)
            if distributed.rank() == 0:
                write_evaluation(result, Path(config.Global.output_dir) / config.Model.name / "eval")
                print(json.dumps(result.summary(), indent=1))

    return run_guarded(parser.prog, evaluate)
