"""`passl-knn MODEL --train FOLDER --test FOLDER`: k-NN accuracy of features."""
from __future__ import annotations

from typing import Optional, Sequence

import passl
from passl.cli.model_options import check_output, join_and_open, make_features_parser, write_features_result
from passl.cli.run import run_guarded


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Entry point of the command; under a launcher the images are shared over the processes."""
    parser = make_features_parser("passl-knn", "Classify test images by their nearest training images (cosine "
                                  "similarity, votes weighted by exp(similarity / temperature)); nothing is trained.")
    parser.add_argument("--k", type=int, nargs="+", default=[10, 20, 200], help="numbers of neighbours")
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.07, 0.1])
    options = parser.parse_args(arguments)
    check_output(parser, options.output)
    return run_guarded(parser.prog, lambda: knn(options))


def knn(options) -> None:
    model = join_and_open(options)
    from passl import distributed

    accuracies = passl.knn(model, options.train, options.test, options.k, options.temperature, options.cache,
                           options.batch_size, options.workers, options.engine)
    if distributed.rank():
        return
    for accuracy in accuracies:
        print(f"k {accuracy.k:>4}  temperature {accuracy.temperature:g}  top-1 {100 * accuracy.top1:.2f}  "
              f"top-5 {100 * accuracy.top5:.2f}")
    write_features_result(options, {"knn": [accuracy._asdict() for accuracy in accuracies]})
