"""`passl-knn MODEL --train FOLDER --test FOLDER`: k-NN accuracy of features."""
from __future__ import annotations

import json
import sys
from typing import Optional, Sequence

from passl.cli.labelled_features import features_of, join_and_open, make_features_parser, shard_of
from passl.cli.model_options import check_output
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
    from passl.evaluation.knn import knn_accuracy
    from passl.evaluation.labelled_data import check_same_classes

    bank, bank_classes = shard_of(model, options.train, "train", options)
    queries, query_labels, classes = features_of(model, options.test, "test", options)
    check_same_classes(bank_classes, classes, options.train, options.test)
    accuracies = knn_accuracy(bank.features, bank.labels, queries, query_labels, ks=options.k,
                              temperatures=options.temperature, bank_indices=bank.indices)
    if distributed.rank():
        return
    for accuracy in accuracies:
        print(f"k {accuracy.k:>4}  temperature {accuracy.temperature:g}  top-1 {100 * accuracy.top1:.2f}  "
              f"top-5 {100 * accuracy.top5:.2f}")
    if options.output:
        with open(options.output, "w") as file:
            json.dump({"model": options.model, "train": options.train, "test": options.test,
                       "knn": [accuracy._asdict() for accuracy in accuracies]}, file, indent=1)


if __name__ == "__main__":
    sys.exit(main())
