"""What passl-knn and passl-probe share: features of two labelled folders, kept on disk when asked."""
from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from passl.cli.model_options import make_model_parser, open_model, require_weights


def make_features_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """A model parser with --train, --test, --cache and --output."""
    parser = make_model_parser(prog, description)
    parser.add_argument("--train", required=True, metavar="FOLDER", help="labelled images to learn from: a class tree "
                        "or a list file")
    parser.add_argument("--test", required=True, metavar="FOLDER", help="labelled images to classify")
    parser.add_argument("--cache", metavar="FOLDER", help="keep the features here, in train/ and test/; another call "
                        "with the same weights, images and transforms takes them from there")
    parser.add_argument("--output", metavar="FILE", help="write the results as JSON")
    return parser


def join_and_open(options: argparse.Namespace):
    """Join the job, if the command was launched on several processes, and build the model."""
    from passl import distributed
    from passl.engine import environment

    distributed.check_launch_environment()
    environment.prepare(options.threads, cpu=options.device != "gpu")
    distributed.initialize(environment.select_device(options.device, key="--device", remedy="--device cpu"))
    model = open_model(options)
    require_weights(model)
    return model


def features_of(model, root: str, part: str, options: argparse.Namespace):
    """(features [N, F], labels [N], class names) of a labelled folder, all rows on every rank, in its order.

    part: "train" or "test", the name of the features below --cache.
    """
    from passl.evaluation.extract import gather

    shard, classes = shard_of(model, root, part, options)
    return (*gather(shard), classes)


def shard_of(model, root: str, part: str, options: argparse.Namespace):
    """(this rank's `Shard`, class names) of a labelled folder; only to save a --cache are shards brought together."""
    from passl import distributed
    from passl.errors import DataError
    from passl.evaluation.extract import Shard, extract_shard, gather
    from passl.evaluation.features import fingerprint, load_features, save_features
    from passl.evaluation.labelled_data import evaluation_loader
    from passl.inference.stream import digest

    if not os.path.exists(root):
        raise FileNotFoundError(f"--{part} {root} does not exist (looked from {os.getcwd()}): give a folder with one "
                                "sub-folder per class, or a list file of 'path label' lines")
    section = {"dataset": {"name": "ImageFolder", "root": root, "transform": list(model.card.transform)},
               "sampler": {"batch_size": options.batch_size}, "loader": {"num_workers": options.workers}}
    loader = evaluation_loader(section, place=root)
    classes, labels = loader.dataset.classes, loader.dataset.labels
    try:
        if not options.cache:
            return extract_shard(model, loader), classes
        place = Path(options.cache) / part
        key = {"weights": fingerprint(model.state_dict()), "images": digest(loader.dataset.samples),
               "transform": list(model.card.transform)}
        cached = load_features(place, key)
        if cached is not None:
            rows = np.arange(distributed.rank(), len(labels), distributed.world_size())
            own = cached.features if distributed.world_size() == 1 else cached.features[rows]
            return Shard(own, labels[rows], rows), classes
        shard = extract_shard(model, loader)
        whole = gather(shard)  # all ranks take part
        if distributed.rank() == 0:
            place.parent.mkdir(parents=True, exist_ok=True)
            save_features(place, key, *whole)
        return shard, classes
    except DataError as error:  # the data set speaks of keys of a config, and there is none here
        raise DataError(str(error).partition("; dataset.image_errors")[0] + "; remove the file, or name the others in "
                        "a list file") from None
    finally:
        loader.close()
