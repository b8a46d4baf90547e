"""`passl-probe MODEL --train FOLDER --test FOLDER`: the fast linear probe, a sweep on features extracted once."""
from __future__ import annotations

import json
import math
import sys
import time
from typing import Optional, Sequence

from passl.cli.labelled_features import features_of, join_and_open, make_features_parser
from passl.cli.model_options import check_output
from passl.cli.run import run_guarded
from passl.errors import UserError

STRENGTHS = (0.01, 0.1, 1.0, 10.0)
LARGEST_LOGISTIC = 1e8  # numbers, of which scikit-learn makes float64 copies; ImageNet has 26 times more


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Entry point of the command."""
    parser = make_features_parser("passl-probe", "Train linear classifiers on features extracted once: a sweep of "
                                  "learning rates and an L2-regularised logistic regression. Without the full probe's "
                                  "crops and flips; docs/evaluation.md compares the two.")
    parser.add_argument("--learning-rates", type=float, nargs="*", default=[0.03, 0.1, 0.3, 1.0, 3.0], metavar="LR",
                        help="of SGD at batch 256; none to leave SGD out")
    parser.add_argument("--epochs", type=int, default=100, help="of SGD")
    parser.add_argument("--strengths", type=float, nargs="*", default=None, metavar="C", help="inverse regularisation "
                        "of the logistic regression; none to leave it out; default: 0.01 0.1 1 10, and none for more "
                        f"than {LARGEST_LOGISTIC:.0e} numbers of training features")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if not options.learning_rates and options.strengths == []:
        parser.error("nothing to train: give --learning-rates or --strengths")
    check_output(parser, options.output)
    return run_guarded(parser.prog, lambda: probe(options))


def probe(options) -> None:
    model = join_and_open(options)
    from passl import distributed
    from passl.evaluation.labelled_data import check_same_classes
    from passl.evaluation.linear import best, logistic_probe, sgd_probe, table

    begin = time.monotonic()
    train, train_labels, train_classes = features_of(model, options.train, "train", options)
    test, test_labels, test_classes = features_of(model, options.test, "test", options)
    check_same_classes(train_classes, test_classes, options.train, options.test)
    if distributed.rank():
        return  # a sweep takes seconds to minutes on one process
    extracted = time.monotonic()
    results = []
    strengths = options.strengths
    if strengths is None:
        strengths = STRENGTHS if train.size <= LARGEST_LOGISTIC else ()
        if not strengths:
            print(f"logistic regression left out: {len(train)} images x {train.shape[1]} features are a float64 "
                  f"copy of {train.size * 8 / 1e9:.1f} GB and one CPU's work; --strengths "
                  f"{' '.join(map(str, STRENGTHS))} runs it all the same")
    if not options.learning_rates and not strengths:
        raise UserError("nothing is left to train: give --learning-rates or --strengths")
    if options.learning_rates:
        results += sgd_probe(train, train_labels, test, test_labels, learning_rates=options.learning_rates,
                             epochs=options.epochs, seed=options.seed)
    if strengths:
        results += logistic_probe(train, train_labels, test, test_labels, strengths=strengths)
    seconds = {"features": extracted - begin, "classifiers": time.monotonic() - extracted}
    print(table(results))
    print(f"features {seconds['features']:.1f} s, classifiers {seconds['classifiers']:.1f} s")
    if options.output:
        with open(options.output, "w") as file:
            json.dump({"model": options.model, "train": options.train, "test": options.test, "seconds": seconds,
                       "best": plain(best(results)), "probes": [plain(result) for result in results]}, file, indent=1)


def plain(result) -> dict:
    """For JSON, which has no NaN: the accuracies of a classifier that diverged are null."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in result._asdict().items()}


if __name__ == "__main__":
    sys.exit(main())
