"""Embedding throughput and the fast probe against the full probe: `python tools/benchmarks/embedding.py DATA`.

DATA holds train/<class>/ and test/<class>/. Prints images per second end to end (JPEG decoding, resizing, network,
writing), of the network alone on ready tensors, and of decoding and resizing alone; then seconds of the fast probe and
of the full probe. All in one run, so that a busy machine slows all of them.
"""
import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def seconds(action) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="resnet50", help="a name; speed does not depend on weights")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=500, help="images to embed; the probes use as many")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()

    from passl.engine import environment

    environment.prepare()
    import paddle

    import passl
    from passl.data import Loader
    from passl.data.datasets import LabelledDataset
    from passl.data.sampler import DistributedBatchSampler
    from passl.data.sources import ImageFiles, find_image_files
    from passl.evaluation.linear import logistic_probe, sgd_probe
    from passl.inference.card import evaluation_transform
    from passl.inference.embed import embed_folder
    from passl.inference.extract import extract_features
    from tools.make_subset import deal

    model = passl.get_model(options.model)
    model.card.transform = evaluation_transform(options.size)

    def loader(part: str, transform) -> Loader:
        samples = find_image_files(f"{options.data}/{part}", labelled=True)
        chosen = deal(samples.labels, 0)[:options.images]
        subset = ImageFiles([samples.path(i) for i in chosen], samples.labels[chosen], samples.classes)
        dataset = LabelledDataset(subset, transform, "error", 0)
        return Loader(dataset, DistributedBatchSampler(len(dataset), options.batch_size), options.workers)

    train, test = loader("train", model.card.transform), loader("test", model.card.transform)
    crops = loader("train", [{"RandomResizedCrop": {"size": options.size}}, "RandomHorizontalFlip",
                             model.card.transform[-1]])
    count = len(train.dataset)
    ready = paddle.randn([options.batch_size, 3, options.size, options.size])
    steps = max(1, count // options.batch_size)

    def network_alone():
        with paddle.no_grad():
            for _ in range(steps):
                model.extract_feat(ready).numpy()

    model.extract_feat(ready).numpy()  # the first call builds the kernels
    rates = {"decode and resize": count / seconds(lambda: [None for _ in train.epoch(0)]),
             "network": steps * options.batch_size / seconds(network_alone)}
    with tempfile.TemporaryDirectory() as folder:
        rates["end to end (passl-embed)"] = count / embed_folder(
            model, train.dataset.samples, Path(folder), options.batch_size, options.workers).seconds
    for name, rate in rates.items():
        print(f"{name:<26}{rate:10.1f} images/s")

    features = {}
    extraction = seconds(lambda: features.update(train=extract_features(model, train),
                                                 test=extract_features(model, test)))
    sweep = seconds(lambda: (sgd_probe(*features["train"], *features["test"]),
                             logistic_probe(*features["train"], *features["test"])))
    epoch = seconds(lambda: (extract_features(model, crops), extract_features(model, test)))
    print(f"{'fast probe':<26}{extraction + sweep:10.1f} s (features {extraction:.1f}, 9 classifiers {sweep:.1f})")
    print(f"{'full probe, 100 epochs':<26}{100 * epoch:10.1f} s (100 times a measured pass over crops and test images; "
          "the classifier's own step is left out)")
    for one in (train, test, crops):
        one.close()


if __name__ == "__main__":
    main()
