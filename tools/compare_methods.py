"""Train every clustering method with one network, data and budget, and put what each has learned into one table.

    python tools/compare_methods.py -c tasks/ssl/swav/configs/quickstart.yaml --test quickstart/data/val \
        --seeds 0 1 2 --table compare/results.md

The SwAV config gives data, network, optimizer and length; each method takes the keys of its Model section that it
knows. Those that cluster the whole data set get `--heads` prototype heads, frozen for one epoch where they can be (a
SwAV config may freeze its own for the whole run); SeLa has no projection head. Methods are judged by k-NN (k 20,
temperature 0.07) and a linear probe (best of five learning rates) on trunk features, before and after training.
Finished runs are kept in `<output>/runs.jsonl` and are not repeated: the command can be stopped and given again.
"""
from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SCORES = ("knn", "probe")
FREEZE_EPOCHS = 1  # the usual freeze; the quickstart's, as long as the run, would leave SeLa-v2's prototypes untrained


def parse(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-c", "--config", required=True, help="a SwAV config; its Model section is adapted")
    parser.add_argument("-o", "--override", action="append", default=[], help="KEY=VALUE for every run, as passl-train")
    parser.add_argument("--test", help="class tree that scores are measured on, when the config has no DataLoader.Eval")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="as Model.name; all with prototypes by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="three show the spread")
    parser.add_argument("--heads", type=int, default=3, help="prototype heads of the methods that have several")
    parser.add_argument("--output", type=Path, default=Path("compare"), help="folder for runs and their scores")
    parser.add_argument("--table", type=Path, help="also write the table to this Markdown file")
    return parser.parse_args(arguments)


def main(arguments=None) -> None:
    options = parse(arguments)
    from passl.config import load_config
    from passl.engine.session import prepare

    base = load_config(options.config, options.override)
    prepare(base)  # threads and flags, before anything imports Paddle
    options.methods = clustering_methods(options.methods)
    options.output.mkdir(parents=True, exist_ok=True)
    store = options.output / "runs.jsonl"
    runs = [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []
    for seed in options.seeds:
        for method in options.methods:
            settings = run_settings(base.plain(), method, seed, options)
            if any(run["settings"] == settings for run in runs):
                continue
            runs.append({"method": method, "seed": seed, "settings": settings, **train_and_score(settings, options)})
            with open(store, "a") as file:
                file.write(json.dumps(runs[-1]) + "\n")
    wanted = [run_settings(base.plain(), method, seed, options) for method in options.methods for seed in options.seeds]
    text = table([run for run in runs if run["settings"] in wanted], options.methods)
    print(text)
    if options.table:
        options.table.write_text(text + "\n")


def clustering_methods(wanted=None) -> list:
    """The registered methods that train prototypes, each by its shortest name; or `wanted`, when all are such."""
    from passl.registry import METHODS

    if wanted:
        for name in wanted:
            if METHODS.get(name).prototype_heads == "none":
                raise SystemExit(f"compare_methods: {name} has no prototypes, so it cannot be compared; choose from "
                                 f"{', '.join(clustering_methods())}")
        return list(wanted)
    shortest = {}
    for name in sorted(METHODS.names(), key=len):
        if METHODS.get(name).prototype_heads != "none":
            shortest.setdefault(METHODS.get(name), name)
    return sorted(shortest.values())


def run_settings(base: dict, method: str, seed: int, options) -> dict:
    """The config of one run as a plain mapping."""
    from passl.models.heads import HEAD_KEYS
    from passl.registry import METHODS

    known = METHODS.parameters(method)
    model = {key: value for key, value in base["Model"].items() if key in known}
    model["name"] = method
    prototypes = model["backbone"]["nmb_prototypes"]
    if not METHODS.get(method).has_embedding:
        model["backbone"] = {key: value for key, value in model["backbone"].items() if key not in HEAD_KEYS}
    if METHODS.get(method).prototype_heads == "several":
        model["backbone"] = {**model["backbone"], "nmb_prototypes": [prototypes] * options.heads}
        if "freeze_prototypes_epochs" in known:
            model["freeze_prototypes_epochs"] = FREEZE_EPOCHS
    sections = {**base, "Model": model}
    sections["Global"] = {**base["Global"], "seed": seed, "output_dir": str(options.output / f"seed_{seed}"),
                          "knn_interval": 0}
    if options.test:
        train = base["DataLoader"]["Train"]["dataset"]
        size = train["size_crops"][0]
        evaluation = {"dataset": {"name": "ImageFolder", "root": options.test,
                                  "transform": [{"Resize": {"size": size}}, {"CenterCrop": {"size": size}}]},
                      "sampler": {"name": "DistributedBatchSampler", "batch_size": 256}, "loader": {"num_workers": 0}}
        if "mean" in train:
            evaluation["dataset"]["transform"] += [{"ToTensor": None},
                                                   {"Normalize": {key: train[key] for key in ("mean", "std")}}]
        sections["DataLoader"] = {**base["DataLoader"], "Eval": evaluation}
    if not sections["DataLoader"].get("Eval"):
        raise SystemExit("compare_methods: the config has no DataLoader.Eval; name a labelled test folder with --test")
    return sections


def train_and_score(settings: dict, options) -> dict:
    """{"before": scores, "after": scores, "seconds": of training} of one run."""
    import yaml

    from passl.config import check, load_config
    from passl.engine.session import join
    from passl.engine.trainer import Trainer
    from passl.inference.labelled_data import bank_loader, evaluation_loader

    path = options.output / f"{settings['Model']['name']}_seed_{settings['Global']['seed']}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    config = check(load_config(str(path), ["Global.overwrite=True"]))  # what an interrupted attempt may have left
    with join(config, "train", show_config=True):
        trainer = Trainer(config)
        query = evaluation_loader(config["DataLoader"]["Eval"])
        bank = bank_loader(config, trainer.loader.dataset, query)
        before = scores(trainer.method.model, bank, query)
        start = time.perf_counter()
        trainer.run()
        seconds = time.perf_counter() - start
        if trainer.progress.epoch < trainer.epochs:  # SIGTERM or Ctrl-C: half a run is no result
            raise SystemExit(f"compare_methods: stopped in {config.Model.name}, seed {config.Global.seed}; finished "
                             "runs are kept, give the command again to go on")
        return {"before": before, "after": scores(trainer.method.model, bank, query), "seconds": round(seconds)}


def scores(model, bank, query) -> dict:
    """k-NN and linear accuracy of the trunk's features, in per cent."""
    from passl.evaluation.knn import knn_accuracy
    from passl.evaluation.linear import best, sgd_probe
    from passl.inference.extract import extract_features

    train, test = extract_features(model, bank), extract_features(model, query)
    nearest = knn_accuracy(*train, *test, ks=(20,), temperatures=(0.07,))[0].top1
    return {"knn": 100 * nearest, "probe": 100 * best(sgd_probe(*train, *test)).top1}


def table(runs: list, methods: list) -> str:
    """Markdown: mean +- half the range over seeds; a method has learned when it gains more than the seeds differ."""
    seeds = sorted({run["seed"] for run in runs})
    lines = [f"Seeds {', '.join(map(str, seeds))}; per cent, mean ± half the range over seeds.{freezes(runs)}", "",
             "| method | k-NN before | k-NN after | probe before | probe after | beats the untrained network "
             "by more than the spread | minutes a run |", "|---|---|---|---|---|---|---|"]
    for method in methods:
        own = [run for run in runs if run["method"] == method]
        if not own:
            continue
        cells, learned = [], []
        for score in SCORES:
            before, after = ([run[when][score] for run in own] for when in ("before", "after"))
            cells += [spread(before), spread(after)]
            learned.append(sum(after) / len(own) - sum(before) / len(own)
                           > max(max(values) - min(values) for values in (before, after)))
        verdict = "yes" if all(learned) else ", ".join(f"{name} {'yes' if yes else 'NO'}"
                                                       for name, yes in zip(("k-NN", "probe"), learned))
        if len(own) == 1:
            verdict = "one seed shows no spread"
        minutes = sum(run["seconds"] for run in own) / len(own) / 60
        lines.append(f"| {method} | {' | '.join(cells)} | {verdict} | {minutes:.1f} |")
    return "\n".join(lines)


def freezes(runs: list) -> str:
    """A sentence on how long each method's prototypes get no gradient, for those that are told so in epochs."""
    models = [run["settings"]["Model"] for run in runs]
    told = {model["name"]: model["freeze_prototypes_epochs"] for model in models
            if model.get("freeze_prototypes_epochs") is not None}
    listed = ", ".join(f"{name} {epochs:g}" for name, epochs in told.items())
    return f" Epochs with frozen prototypes: {listed}." if told else ""


def spread(values: list) -> str:
    return f"{sum(values) / len(values):.1f} ± {(max(values) - min(values)) / 2:.1f}"


if __name__ == "__main__":
    main()
