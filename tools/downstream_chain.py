"""Pretrain, evaluate and use a small network on real images, one command each, against an untrained trunk.

    python tools/downstream_chain.py --data dataset/cifar10 --output output/chain --seeds 0 1 2

DATA holds train/<class>/ and test/<class>/ with 32-pixel images. Every step is a command of this package and is
printed before it runs; what each says goes to OUTPUT/<seed>/<trunk>/*.log. At the end comes a table (also
OUTPUT/table.md) and all numbers are in OUTPUT/results.json. The untrained trunk gets batch-norm statistics of the
training images, so that it is compared for its weights alone.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "tasks/ssl/swav/configs"
PRETRAIN = CONFIGS / "swav_resnet18_32_pt_cifar10_1n1c_dp_fp32_cpu.yaml"
PROBE = CONFIGS / "swav_resnet18_32_lp_cifar10_1n1c_dp_fp32_cpu.yaml"
FINE_TUNE = {percent: CONFIGS / f"swav_resnet18_32_ft_cifar10_{percent}percent_1n1c_dp_fp32_cpu.yaml"
             for percent in (1, 10)}
RANDOM_TRUNK = """
import sys, paddle, passl
from passl.config import load_config
paddle.seed(int(sys.argv[3]))
backbone = load_config(sys.argv[1]).plain()["Model"]["backbone"]
kept = {key: value for key, value in backbone.items() if key in ("stem", "base_channels")}
model = passl.get_model(backbone["type"], **kept)
paddle.save({f"res_model.{name}": value.numpy() for name, value in model.state_dict().items()}, sys.argv[2])
"""


def verb(folder: Path, name: str, *arguments) -> float:
    """Run `passl VERB ...`, its output in folder/name.log; seconds it took. Stops the chain when it fails."""
    command = [sys.executable, "-m", "passl.cli.main", *map(str, arguments)]
    return execute(folder, name, command, "passl " + " ".join(map(str, arguments)))


def execute(folder: Path, name: str, command, shown: str) -> float:
    folder.mkdir(parents=True, exist_ok=True)
    print(f"$ {shown}", flush=True)
    begin = time.monotonic()
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with open(folder / f"{name}.log", "w") as log:
        code = subprocess.run(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT,
                              env={**os.environ, "PYTHONPATH": path}).returncode
    if code:
        sys.exit(f"failed with {code}; the end of {folder / name}.log:\n{(folder / f'{name}.log').read_text()[-1500:]}")
    return time.monotonic() - begin


def pretrain(options, seed: int, folder: Path) -> Path:
    limit = [f"Global.max_train_step={options.max_steps}"] if options.max_steps else []
    verb(folder, "pretrain", "train", "-c", PRETRAIN, "-o", f"Global.epochs={options.pretrain_epochs}",
         f"Global.seed={seed}", f"Global.output_dir={folder}", f"DataLoader.Train.dataset.root={options.data}/train",
         f"DataLoader.Eval.dataset.root={options.data}/test", "Global.knn_interval=0",
         "Global.overwrite=True", *limit)
    return folder / "swav_resnet18_pretrain/latest"


def untrained(options, seed: int, folder: Path) -> Path:
    path = folder / "random.pdparams"
    execute(folder, "random", [sys.executable, "-c", RANDOM_TRUNK, PRETRAIN, path, seed], f"random weights: {path}")
    verb(folder, "recalibrate", "recalibrate", path, f"{options.data}/train", "--size", 32, "--count", 2000, "--device",
         "cpu", "--output", folder / "trunk.pdparams")
    return folder / "trunk.pdparams"


def evaluate(options, trunk: Path, seed: int, folder: Path) -> dict:
    """k-NN, fast probe, full probe, fine-tuning with 1 % and 10 % of the labels: accuracies and seconds."""
    data = ["--train", f"{options.data}/train", "--test", f"{options.data}/test", "--cache", folder / "features",
            "--device", "cpu", "--batch-size", 250]
    seconds, result = {}, {}
    seconds["k-NN"] = verb(folder, "knn", "knn", trunk, *data, "--k", 20, 200, "--output", folder / "knn.json")
    result["k-NN (k 20)"] = json.loads((folder / "knn.json").read_text())["knn"][0]["top1"]
    verb(folder, "fast_probe", "probe", trunk, *data, "--epochs", options.probe_epochs, "--strengths", "0.1",
         "--output", folder / "probe.json")
    fast = json.loads((folder / "probe.json").read_text())
    seconds["fast probe"] = seconds["k-NN"] + sum(fast["seconds"].values())  # k-NN has extracted the features
    result["fast probe"] = fast["best"]["top1"]
    limit = [f"Global.max_train_step={options.max_steps}"] if options.max_steps else []
    runs = {"linear probe": (PROBE, options.probe_epochs), **{f"fine-tuned, {percent} % of labels": (
        FINE_TUNE[percent], options.fine_tune_epochs * (2 if percent == 1 else 1)) for percent in (1, 10)}}
    for name, (config, epochs) in runs.items():
        place = folder / config.stem
        lists = [] if config is PROBE else [
            f"DataLoader.Train.dataset.txt_file_name={options.output}/{config.stem.split('_')[5]}.txt",
            f"Optimizer.lr.milestones=[{int(epochs * .6)},{int(epochs * .8)}]",
            f"Optimizer.param_groups.0.lr.milestones=[{int(epochs * .6)},{int(epochs * .8)}]"]
        settings = [f"Global.pretrained_model={trunk}", f"Global.output_dir={place}", f"Global.seed={seed}",
                    "Global.overwrite=True",
                    f"DataLoader.Eval.dataset.root={options.data}/test"]
        seconds[name] = verb(place, "train", "train", "-c", config, "-o", f"Global.epochs={epochs}", *settings,
                             f"DataLoader.Train.dataset.root={options.data}/train", *lists, *limit)
        model = next(place.glob("swav_*/latest"))
        verb(place, "eval", "eval", "-c", config, "-o", *settings[1:], f"Global.pretrained_model={model}")
        metrics = json.loads((model.parent / "eval/metrics.json").read_text())
        result[name] = metrics["top1"]  # of the last epoch: the best one would be chosen on the test images
    return {"accuracy": result, "seconds": seconds}


def use(options, trunk: Path, probe: Path, folder: Path) -> None:
    """Predict one JPEG, embed and cluster the test images, export the probe and run the exported model."""
    image = sorted(Path(options.data, "test").rglob("*.jpg"))[0]
    verb(folder, "predict", "predict", probe, image, "--device", "cpu", "--output", folder / "prediction.json")
    verb(folder, "embed", "embed", trunk, f"{options.data}/test", "--device", "cpu", "--output", folder / "embeddings")
    verb(folder, "assign", "assign", trunk, f"{options.data}/test", "--device", "cpu", "--output",
         folder / "clusters.csv")
    verb(folder, "export", "export", "--model", probe, "--size", 32, "--to", folder / "exported/probe")
    execute(folder, "images", [sys.executable, "-c", "import numpy, sys; numpy.save(sys.argv[1], numpy.zeros([2, 3, 32,"
            " 32], 'float32'))", folder / "images.npy"], "two grey images for the exported model")
    execute(folder, "exported", [sys.executable, "-m", "passl.inference.exported", folder / "exported/probe",
                                 folder / "images.npy", folder / "output.npy"], "python -m passl.inference.exported")
    print((folder / "assign.log").read_text().strip())


def table(results: dict, seeds) -> str:
    """Markdown: mean and range over seeds for each evaluation and trunk."""
    rows = list(results[str(seeds[0])]["pretrained"]["accuracy"])
    lines = ["| test top-1, % | untrained trunk | pretrained trunk | difference |", "|---|---|---|---|"]
    for row in rows:
        values = {trunk: [100 * results[str(seed)][trunk]["accuracy"][row] for seed in seeds]
                  for trunk in ("untrained", "pretrained")}
        cells = [f"{statistics.mean(v):.1f} ({min(v):.1f} to {max(v):.1f})" for v in values.values()]
        gain = statistics.mean(values["pretrained"]) - statistics.mean(values["untrained"])
        lines.append(f"| {row} | {cells[0]} | {cells[1]} | {gain:+.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pretrain-epochs", type=int, default=20)
    parser.add_argument("--probe-epochs", type=int, default=10)
    parser.add_argument("--fine-tune-epochs", type=int, default=20, help="with 10 %% of labels; twice for 1 %%")
    parser.add_argument("--max-steps", type=int, default=None, help="stop every training after this many steps (trial)")
    options = parser.parse_args()
    options.data, options.output = str(Path(options.data).resolve()), str(Path(options.output).resolve())
    Path(options.output).mkdir(parents=True, exist_ok=True)
    execute(Path(options.output), "lists", [sys.executable, ROOT / "tools/make_subset.py", f"{options.data}/train",
            "--percent", "1", "10", "--output", options.output], "python tools/make_subset.py ... --percent 1 10")
    results = {}
    for seed in options.seeds:
        results[str(seed)] = {}
        for name, make in (("pretrained", pretrain), ("untrained", untrained)):
            folder = Path(options.output) / str(seed) / name
            trunk = make(options, seed, folder)
            results[str(seed)][name] = evaluate(options, trunk, seed, folder)
            if name == "pretrained" and seed == options.seeds[0]:
                use(options, trunk, folder / PROBE.stem / "swav_resnet18_linearprobe/latest", folder / "use")
            (Path(options.output) / "results.json").write_text(json.dumps(results, indent=1))
    text = table(results, options.seeds)
    (Path(options.output) / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
