"""`make quickstart`: make the images, train by the same path as `passl-train`, compare three kinds of features."""
from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

CONFIG = ROOT / "tasks" / "ssl" / "swav" / "configs" / "quickstart.yaml"
NEIGHBOURS, TEMPERATURE = 20, 0.1
ROWS = {"pixels": "raw pixels", "untrained": "untrained network", "swav": "SwAV network"}


def main(arguments: Optional[List[str]] = None) -> int:
    """Entry point of `make quickstart`; the exit status is that of the training command."""
    parser = argparse.ArgumentParser(prog="quickstart", description="Pretrain SwAV on this machine in a few minutes "
                                     "and see what it learnt.")
    parser.add_argument("--folder", type=Path, default=Path("quickstart"), help="where everything goes: %(default)s")
    parser.add_argument("--seed", type=int, default=31, help="of weights, shuffling and augmentation: %(default)s")
    parser.add_argument("--steps", type=int, help="stop after this many training steps")
    options = parser.parse_args(arguments)

    begin = time.perf_counter()
    data = options.folder / "data"
    print("1. Images: cuts of twenty places in two photographs that scikit-learn ships, in false colours", flush=True)
    from tools.quickstart.images import make_images

    counts = make_images(data)
    print(f"   {counts['train']} to train on, {counts['val']} held out (other cuts of the same places, other colours), "
          f"in {data}: have a look\n")

    overrides = [f"Global.seed={options.seed}", f"Global.output_dir={options.folder / 'output'}",
                 "Global.overwrite=True",  # of an earlier quickstart
                 f"DataLoader.Train.dataset.root={data / 'train'}", f"DataLoader.Eval.dataset.root={data / 'val'}"]
    if options.steps:
        overrides.append(f"Global.max_train_step={options.steps}")
    print("2. SwAV, without the labels; two to four minutes on two cores. The same as\n   passl-train -c "
          f"{_short(CONFIG)} -o {' '.join(overrides)}\n", flush=True)
    from passl.cli.train import main as train

    start = time.perf_counter()
    status = train(["-c", str(CONFIG), *(part for override in overrides for part in ("-o", override))])
    if status:
        return status
    training_time = time.perf_counter() - start

    from passl.config import check, load_config
    from passl.report.curve import draw_loss, read_history

    config = check(load_config(str(CONFIG), overrides))
    folder = Path(config.Global.output_dir) / config.Model.name
    history = read_history(folder / "metrics.jsonl")
    if not options.steps and history[-1]["epoch"] < config.Global.epochs:
        print("\nStopped before the end: nothing to compare yet. The line above tells how to go on.")
        return 0

    print("\n3. What it learnt: the class of a held-out picture by the vote of its nearest training pictures",
          flush=True)
    accuracies = compare_features(config, folder / "latest.pdparams")
    curve = options.folder / "loss.png"
    draw_loss(history, config.Model.backbone.nmb_prototypes, curve)
    print(table(accuracies))
    print(f"{len(history)} steps in {training_time:.0f} s ({1000 * training_time / max(1, len(history)):.0f} ms each), "
          f"{time.perf_counter() - begin:.0f} s in all.\n")
    print(f"""Loss curve   {curve}
Curves       visualdl --logdir {options.folder / 'output' / 'vdl'}
Weights      {folder / 'latest.pdparams'}
Try next     the same with other settings: add -o Model.epsilon=0.05 to the command above;
             your own pictures: -o DataLoader.Train.dataset.root=<folder>, and read README.md on the recipe""")
    return 0


def compare_features(config, weights: Path) -> Dict[str, float]:
    """Top-1 in per cent of k-NN on held-out images for raw pixels, the network before training, and after.

    The bank is the training tree without augmentation, the queries are the held-out tree. The untrained network has
    exactly the weights that the run with this seed started from.
    """
    from passl.data import build_loader
    from passl.engine.components import build_method
    from passl.engine.environment import seed_everything
    from passl.evaluation.knn import knn_accuracy
    from passl.inference.extract import extract_features
    from passl.inference.labelled_data import bank_loader, evaluation_loader
    from passl.weights import load_into

    train_loader = build_loader(config.DataLoader.Train, seed=config.Global.seed)
    queries = evaluation_loader(config.DataLoader.Eval)
    bank = bank_loader(config, train_loader.dataset, queries)
    seed_everything(config.Global.seed)
    model = build_method(config, train_loader).model

    def accuracy(network) -> float:
        (result,) = knn_accuracy(*extract_features(network, bank), *extract_features(network, queries),
                                 ks=[NEIGHBOURS], temperatures=[TEMPERATURE])
        return 100 * result.top1

    try:
        found = {"pixels": accuracy(_pixels()), "untrained": accuracy(model)}
        load_into(model, weights, strict="all")
        return {**found, "swav": accuracy(model)}
    finally:
        bank.close()
        queries.close()


def _pixels():
    """A network whose features [B, 3 H W] are the normalised pixels [B, 3, H, W] themselves."""
    import paddle

    return paddle.nn.Flatten()


def table(accuracies: Dict[str, float]) -> str:
    """The accuracies as lines of text, what was learnt last."""
    lines = [f"k-NN top-1 on held-out pictures (k = {NEIGHBOURS}, chance 5 %)"]
    return "\n".join(lines + [f"   {title:20s}{accuracies[key]:6.1f} %" for key, title in ROWS.items()]) + "\n"


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    sys.exit(main())
