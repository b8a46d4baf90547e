"""Pretrain, evaluate and use a small network on real images, one command each, against an untrained trunk.

    python tools/downstream_chain.py --data dataset/cifar10 --output output/chain --seeds 0 1 2
    python tools/downstream_chain.py --recipe quickstart --data quickstart/data --output output/chain_quickstart

DATA holds train/<class>/ and test/<class>/ (val/<class>/ for the quickstart, whose images are made when they are not
there). Every step is a command, printed whole before it runs; what it says goes to OUTPUT/<seed>/<trunk>/*.log. At the
end comes a table (also OUTPUT/table.md), and all numbers are in OUTPUT/results.json. A chain that was stopped goes on
where it was: what results.json holds is not run again. The untrained trunk has the
weights that pretraining with the same seed starts from, batch-norm statistics of the training images, and the same
preparation of images, so that the two are compared for their weights alone.
"""
import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Sequence

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from passl.config import load_config  # noqa: E402

CONFIGS = ROOT / "tasks/ssl/swav/configs"


class Recipe(NamedTuple):
    """Configs of the three phases, and the name of the folder of test images."""

    pretrain: Path
    probe: Path
    fine_tune: Dict[int, Path]
    test: str


RECIPES = {
    "cifar10": Recipe(*(CONFIGS / f"swav_resnet18_32_{phase}_cifar10_1n1c_dp_fp32_cpu.yaml" for phase in ("pt", "lp")),
                      {percent: CONFIGS / f"swav_resnet18_32_ft_cifar10_{percent}percent_1n1c_dp_fp32_cpu.yaml"
                       for percent in (1, 10)}, "test"),
    "quickstart": Recipe(CONFIGS / "quickstart.yaml", CONFIGS / "quickstart_lp.yaml",
                         {percent: CONFIGS / f"quickstart_ft_{percent}percent.yaml" for percent in (1, 10)}, "val"),
}
PREPARE_IMAGE = ("import sys, numpy, passl; from passl.inference.images import batches; "
                 "model = passl.get_model(sys.argv[1]); "
                 "numpy.save(sys.argv[3], next(batches(sys.argv[2:3], model.card.transform, 1))[1].numpy())")
OPTIONS = ("recipe", "data", "pretrain_epochs", "probe_epochs", "fine_tune_epochs", "max_steps")  # of every number
LARGEST_DIFFERENCE = 1e-4  # of a probability, between passl-predict and the exported model on the same image


class Record:
    """Numbers of the chain by seed, trunk and row, kept in a JSON file as soon as they are known."""

    def __init__(self, path: Path, settings: Dict[str, Any]):
        self.path = path
        self.content = {"settings": settings, "seeds": {}}
        if path.is_file():
            self.content = json.loads(path.read_text())
            if self.content["settings"] != settings:
                sys.exit(f"{path} was made with {self.content['settings']}, not with {settings}: remove it, or choose "
                         "another --output")

    def of(self, seed: int, trunk: str, row: str, measure: Callable[[], Dict[str, float]]) -> Dict[str, float]:
        """{"seconds": ..., and "top1": ... of an evaluation}: what the file has, else what `measure` returns."""
        rows = self.content["seeds"].setdefault(str(seed), {}).setdefault(trunk, {})
        if row not in rows:
            rows[row] = measure()
            self.path.write_text(json.dumps(self.content, indent=1))
        return rows[row]


def verb(folder: Path, name: str, *arguments) -> float:
    """Run `passl VERB ...`, its output in folder/name.log; seconds it took. Stops the chain when it fails."""
    return execute(folder, name, [sys.executable, "-m", "passl.cli.main", *arguments], ["passl", *arguments])


def execute(folder: Path, name: str, command, shown=None) -> float:
    folder.mkdir(parents=True, exist_ok=True)
    print(f"$ {shlex.join(map(str, shown or ['python', *command[1:]]))}", flush=True)
    begin = time.monotonic()
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with open(folder / f"{name}.log", "w") as log:
        code = subprocess.run(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT,
                              env={**os.environ, "PYTHONPATH": path}).returncode
    if code:
        sys.exit(f"failed with {code}; the end of {folder / name}.log:\n{(folder / f'{name}.log').read_text()[-1500:]}")
    return time.monotonic() - begin


def pretraining_settings(options, seed: int, folder: Path):
    epochs = [f"Global.epochs={options.pretrain_epochs}"] if options.pretrain_epochs else []
    return [f"Global.seed={seed}", f"Global.output_dir={folder}", f"DataLoader.Train.dataset.root={options.train}",
            f"DataLoader.Eval.dataset.root={options.test}", "Global.knn_interval=0",
            "Global.overwrite=True", *epochs]


def pretrain(options, seed: int, folder: Path) -> Dict[str, float]:
    """Seconds of pretraining; the weights are then at `trunk_of`."""
    return {"seconds": verb(folder, "pretrain", "train", "-c", options.recipe.pretrain, "-o",
                            *pretraining_settings(options, seed, folder), *options.limit)}


def untrained(options, seed: int, folder: Path) -> Dict[str, float]:
    """Seconds to make a trunk with the weights that pretraining starts from and its own running statistics."""
    seconds = execute(folder, "untrained", [
        sys.executable, ROOT / "tools/untrained_run.py", "-c", options.recipe.pretrain, "-o",
        *pretraining_settings(options, seed, folder), "--to", folder / "start"])
    size = max(load_config(str(options.recipe.pretrain)).DataLoader.Train.dataset.size_crops)
    seconds += verb(folder, "recalibrate", "recalibrate", folder / "start", options.train, "--size", size,
                    "--count", 2000, "--device", "cpu", "--output", folder / "trunk")
    return {"seconds": seconds}


TRUNKS = {"pretrained": pretrain, "untrained": untrained}


def trunk_of(options, trunk: str, folder: Path) -> Path:
    """Where the weights of a trunk are."""
    if trunk == "untrained":
        return folder / "trunk"
    return folder / load_config(str(options.recipe.pretrain)).Model.name / "latest"


def evaluations(options, trunk: Path, seed: int, folder: Path) -> Dict[str, Callable[[], Dict[str, float]]]:
    """k-NN, fast probe, full probe, fine-tuning with 1 % and 10 % of the labels, as things still to be done."""
    recipe = options.recipe
    data = ["--train", options.train, "--test", options.test, "--cache", folder / "features", "--device", "cpu",
            "--batch-size", 250]

    def knn() -> Dict[str, float]:
        seconds = verb(folder, "knn", "knn", trunk, *data, "--k", 20, 200, "--output", folder / "knn.json")
        return {"top1": json.loads((folder / "knn.json").read_text())["knn"][0]["top1"], "seconds": seconds}

    def fast_probe() -> Dict[str, float]:
        seconds = verb(folder, "fast_probe", "probe", trunk, *data, "--epochs",
                       epochs_of(recipe.probe, options.probe_epochs), "--strengths", "0.1", "--output",
                       folder / "probe.json")  # k-NN has extracted the features
        return {"top1": json.loads((folder / "probe.json").read_text())["best"]["top1"], "seconds": seconds}

    def trained(config: Path, epochs: Optional[int], settings: Sequence[str] = ()) -> Dict[str, float]:
        place = folder / config.stem
        common = [f"Global.output_dir={place}", f"Global.seed={seed}", f"DataLoader.Eval.dataset.root={options.test}"]
        seconds = verb(place, "train", "train", "-c", config, "-o", f"Global.epochs={epochs_of(config, epochs)}",
                       f"Global.pretrained_model={trunk}", f"DataLoader.Train.dataset.root={options.train}",
                       "Global.overwrite=True", *common, *settings, *options.limit)
        run = place / load_config(str(config)).Model.name
        verb(place, "eval", "eval", "-c", config, "-o", *common, f"Global.pretrained_model={run / 'latest'}")
        # Of the last epoch: the best one would be chosen on the test images.
        return {"top1": json.loads((run / "eval/metrics.json").read_text())["top1"], "seconds": seconds}

    def fine_tuned(percent: int) -> Dict[str, float]:
        epochs = options.fine_tune_epochs and options.fine_tune_epochs * (2 if percent == 1 else 1)
        settings = [f"DataLoader.Train.dataset.txt_file_name={options.output}/{percent}percent.txt"]
        if epochs:
            steps = f"milestones=[{int(epochs * .6)},{int(epochs * .8)}]"
            settings += [f"Optimizer.lr.{steps}", f"Optimizer.param_groups.0.lr.{steps}"]
        return trained(recipe.fine_tune[percent], epochs, settings)

    return {"k-NN (k 20)": knn, "fast probe": fast_probe,
            "linear probe": lambda: trained(recipe.probe, options.probe_epochs),
            **{f"fine-tuned, {percent} % of labels": partial(fine_tuned, percent) for percent in recipe.fine_tune}}


def epochs_of(config: Path, wanted) -> int:
    return wanted or load_config(str(config)).Global.epochs


def use(options, trunk: Path, probe: Path, folder: Path) -> None:
    """Predict one image, embed and cluster the test images, export the probe and run the exported model."""
    image = sorted(path for path in Path(options.test).rglob("*") if path.suffix in (".jpg", ".png"))[0]
    verb(folder, "predict", "predict", probe, image, "--device", "cpu", "--top-k", 100, "--output",
         folder / "prediction.json")
    verb(folder, "embed", "embed", trunk, options.test, "--device", "cpu", "--output", folder / "embeddings")
    verb(folder, "assign", "assign", trunk, options.test, "--device", "cpu", "--output", folder / "clusters.csv")
    print((folder / "assign.log").read_text().strip())
    size = max(load_config(str(options.recipe.pretrain)).DataLoader.Train.dataset.size_crops)
    verb(folder, "export", "export", "--model", probe, "--size", size, "--to", folder / "exported/probe")
    execute(folder, "prepare", [sys.executable, "-c", PREPARE_IMAGE, probe, image, folder / "image.npy"])
    execute(folder, "exported", [sys.executable, "-m", "passl.inference.exported", folder / "exported/probe",
                                 folder / "image.npy", folder / "logits.npy"])
    difference = compare_prediction(folder / "prediction.json", folder / "logits.npy")
    print(f"exported model and passl-predict on {image}: probabilities differ by {difference:.1e}")
    if not difference <= LARGEST_DIFFERENCE:
        sys.exit(f"that is more than {LARGEST_DIFFERENCE:.0e}")


def compare_prediction(prediction: Path, logits: Path) -> float:
    """Largest difference between the probabilities that passl-predict wrote, best first, and those of logits [1, C]."""
    import numpy as np

    given = [entry["score"] for entry in json.loads(prediction.read_text())[0]["predictions"]]
    values = np.load(logits)[0].astype("float64")
    probabilities = np.exp(values - values.max())
    ours = np.sort(probabilities / probabilities.sum())[::-1][:len(given)]
    return float(np.abs(ours - given).max())


def table(seeds: Mapping[str, Any]) -> str:
    """Markdown: mean and range over seeds for each evaluation and trunk."""
    runs = list(seeds.values())
    lines = ["| test top-1, % | untrained trunk | pretrained trunk | difference |", "|---|---|---|---|"]
    for row in (name for name, entry in runs[0]["pretrained"].items() if "top1" in entry):
        values = {trunk: [100 * run[trunk][row]["top1"] for run in runs] for trunk in ("untrained", "pretrained")}
        cells = [f"{statistics.mean(v):.1f} ({min(v):.1f} to {max(v):.1f})" for v in values.values()]
        gain = statistics.mean(values["pretrained"]) - statistics.mean(values["untrained"])
        lines.append(f"| {row} | {cells[0]} | {cells[1]} | {gain:+.1f} |")
    return "\n".join(lines)


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="cifar10", help="which configs of "
                        "tasks/ssl/swav/configs; their epochs hold unless one of the next options is given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pretrain-epochs", type=int, default=None)
    parser.add_argument("--probe-epochs", type=int, default=None)
    parser.add_argument("--fine-tune-epochs", type=int, default=None, help="with 10 %% of labels; twice for 1 %%")
    parser.add_argument("--max-steps", type=int, default=None, help="stop every training after this many steps (trial)")
    options = parser.parse_args(arguments)
    options.settings = {name: getattr(options, name) for name in OPTIONS}
    options.recipe = RECIPES[options.recipe]
    options.output, data = Path(options.output).resolve(), Path(options.data).resolve()
    options.train, options.test = data / "train", data / options.recipe.test
    options.limit = [f"Global.max_train_step={options.max_steps}"] if options.max_steps else []
    return options


def main(arguments=None) -> None:
    options = parse(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.recipe is RECIPES["quickstart"] and not options.train.exists():
        execute(options.output, "images", [sys.executable, ROOT / "tools/quickstart/images.py", options.train.parent])
    execute(options.output, "lists", [sys.executable, ROOT / "tools/make_subset.py", options.train, "--percent", 1, 10,
                                      "--output", options.output, "--force"])
    record = Record(options.output / "results.json", options.settings)
    for seed in options.seeds:
        for name, make in TRUNKS.items():
            folder = options.output / str(seed) / name
            trunk = trunk_of(options, name, folder)
            record.of(seed, name, "weights", partial(make, options, seed, folder))
            for row, measure in evaluations(options, trunk, seed, folder).items():
                record.of(seed, name, row, measure)
            if name == "pretrained" and seed == options.seeds[0]:
                config = options.recipe.probe
                use(options, trunk, folder / config.stem / load_config(str(config)).Model.name / "latest",
                    folder / "use")
    text = table({str(seed): record.content["seeds"][str(seed)] for seed in options.seeds})
    (options.output / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
