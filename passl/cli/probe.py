"""`passl-probe MODEL --train FOLDER --test FOLDER`: the fast linear probe, a sweep on features extracted once."""
from __future__ import annotations

from typing import Optional, Sequence

import passl
from passl.cli.model_options import check_output, join_and_open, make_features_parser, write_features_result
from passl.cli.run import run_guarded


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
                        "than 1e+08 numbers of training features")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if not options.learning_rates and options.strengths == []:
        parser.error("nothing to train: give --learning-rates or --strengths")
    check_output(parser, options.output)
    return run_guarded(parser.prog, lambda: probe(options))


def probe(options) -> None:
    model = join_and_open(options)
    from passl.evaluation.linear import table

    result = passl.probe(model, options.train, options.test, options.learning_rates, options.epochs, options.strengths,
                         options.seed, options.cache, options.batch_size, options.workers, options.engine)
    if result is None:
        return  # not the first process
    if result.left_out:
        print(f"logistic regression left out: {result.left_out}; --strengths 0.01 0.1 1.0 10.0 runs it all the same")
    print(table(result.probes))
    print(f"features {result.seconds['features']:.1f} s, classifiers {result.seconds['classifiers']:.1f} s")
    write_features_result(options, result.summary())
