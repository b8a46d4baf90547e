"""The parts of a run that a checked configuration asks for: method, what watches it, and evaluations."""
from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, List, Mapping, NamedTuple, Optional, Sequence

import paddle

from passl import distributed
from passl.data import Loader
from passl.data.class_numbers import KnownClasses, known_classes, number_alike, tell_shared_files
from passl.engine import log, monitor, watch
from passl.engine.callbacks import Callback
from passl.errors import UserError
from passl.evaluation.knn import knn_accuracy
from passl.evaluation.online import OnlineProbe
from passl.inference.extract import extract_features, extract_shard
from passl.inference.labelled_data import bank_loader, evaluation_loader
from passl.inference.validate import Validation, build_metrics
from passl.methods.base import Method, RunFacts
from passl.methods.classify import WeightedSum
from passl.preflight.facts import run_facts
from passl.registry import METHODS

NEIGHBOURS = (10, 20, 200)
TEMPERATURE = 0.07


def build_method(config: Mapping[str, Any], loader) -> Method:
    """The method that Model.name stands for, told what it needs to know about the run on the images of `loader`."""
    run = run_facts(config, loader, distributed.world_size())
    return METHODS.build(config["Model"], run=run, losses=(config.get("Loss") or {}).get("Train"),
                         metrics=(config.get("Metric") or {}).get("Train"))


def build_companions(config: Mapping[str, Any], method: Method, dataset, run: RunFacts) -> Dict[str, Any]:
    """What is told of the trunk features of every step, under its name in checkpoints."""
    if not config["Global"]["online_probe"] or method.is_classifier:
        return {}
    return {"online_probe": OnlineProbe(method.model.num_features, dataset.labels, run.class_count or 0)}


def build_callbacks(config: Mapping[str, Any], folder: Path, interactive: bool) -> List[Callback]:
    """The callbacks that the Global section asks for."""
    settings = config["Global"]
    callbacks: List[Callback] = [log.LogLines(settings["print_batch_step"]),
                                 monitor.JsonLines(folder / "metrics.jsonl"),
                                 monitor.CropPicture(folder / "first_batch.png"),
                                 monitor.ClassNames(folder / "classes.txt"),
                                 watch.LearningWatch()]
    if settings["progress"] == "bar" or settings["progress"] == "auto" and interactive:
        callbacks.append(log.ProgressBar())
    if settings["use_visualdl"]:
        callbacks.append(monitor.VisualDL(folder.parent / "vdl", settings["print_batch_step"]))
    return callbacks


# --------------------------------------------------------------------------------------------------- evaluations
class Interval(NamedTuple):
    """Every `every` epochs or steps, and always at the end of the run."""

    every: int
    unit: str = "epoch"

    def due(self, epochs: int, steps: int, at_epoch_end: bool, done: bool) -> bool:
        """Asked after every step (at_epoch_end False) and after every epoch, with the numbers done so far."""
        if self.unit == "step":
            whole = steps % self.every == 0
            return done and not whole if at_epoch_end else whole
        return at_epoch_end and (done or epochs % self.every == 0)


class OnlineEvaluation:
    """k-NN accuracy of the query set under a labelled bank, and the online probe's accuracy on it.

    Reports knn10, knn20, knn200 (top-1 fractions at temperature 0.07; neighbours beyond the bank are left out) and
    online_probe; "metric", by which the best checkpoint is kept, is knn20, or online_probe without a bank.
    """

    def __init__(self, queries: Loader, bank: Optional[Loader], probe: Optional[OnlineProbe], interval,
                 autocast: Callable[[], ContextManager] = nullcontext, neighbours: Sequence[int] = NEIGHBOURS,
                 backend: str = "eager"):
        self.backend = backend
        self.queries, self.bank, self.probe = queries, bank, probe
        self.interval, self.autocast = interval, autocast
        if bank is not None:
            self.neighbours = [k for k in neighbours if k <= len(bank.dataset)] or [len(bank.dataset)]

    def run(self, method, on_batch: Optional[Callable] = None) -> Dict[str, float]:
        """`on_batch` is told of every batch, first of the queries, then of the bank."""
        with self.autocast():
            queries, labels = extract_features(method.model, self.queries, on_batch, self.backend)
            bank = (extract_shard(method.model, self.bank, on_batch, self.backend) if self.bank is not None else None)
        results: Dict[str, float] = {}
        if self.probe is not None:
            known = labels >= 0
            chosen = self.probe.logits(paddle.to_tensor(queries[known])).argmax(axis=1).numpy()
            results["online_probe"] = results["metric"] = float((chosen == labels[known]).mean())
        if bank is not None:
            known = bank.labels >= 0
            accuracies = knn_accuracy(bank.features[known], bank.labels[known], queries, labels, ks=self.neighbours,
                                      temperatures=[TEMPERATURE], bank_indices=bank.indices[known])
            results.update({f"knn{accuracy.k}": accuracy.top1 for accuracy in accuracies})
            results["metric"] = results[f"knn{20 if 20 in self.neighbours else self.neighbours[-1]}"]
        return results

    def close(self) -> None:
        self.queries.close()
        if self.bank is not None:
            self.bank.close()


def build_evaluations(config: Mapping[str, Any], loader, method, companions: Mapping[str, Any],
                      autocast: Callable) -> List[Any]:
    """The evaluations that the Global section asks for; each has `interval`, `run(method, on_batch)` and `close()`.

    loader: of the training data. companions: of `build_companions`. Raises UserError or DataError for evaluations that
    could not work, before step 1.
    """
    settings, has_queries = config["Global"], bool(config["DataLoader"].get("Eval"))
    if method.is_classifier:
        if settings["knn_interval"] or settings["online_probe"]:
            raise UserError(f"Global.knn_interval and Global.online_probe watch pretraining; {config['Model']['name']} "
                            "is evaluated by Global.eval_during_train. Use passl-knn for a trained network")
        if not settings["eval_during_train"]:
            return []
        if not has_queries:
            raise UserError("Global.eval_during_train needs DataLoader.Eval: add it, or set eval_during_train to False")
        # a list may lack the last classes, so the outputs count
        known = known_classes(loader.dataset.samples, "DataLoader.Train")._replace(size=method.classes)
        validation = build_validation(config, method, Interval(settings["eval_interval"], settings["eval_unit"]),
                                      autocast, known, settings["engine"])
        if not distributed.rank():
            tell_shared_files(loader.dataset.samples, validation.loader.dataset.samples, "DataLoader.Train",
                              "DataLoader.Eval")
        return [validation]
    if settings["eval_during_train"]:
        raise UserError("Global.eval_during_train: pretraining has no classifier to evaluate; use Global.knn_interval: "
                        "1 or Global.online_probe: True")
    if not settings["knn_interval"] and not (settings["online_probe"] and has_queries):
        return []
    if not has_queries:
        raise UserError("Global.knn_interval needs DataLoader.Eval, the labelled images to classify: add it, or set "
                        "knn_interval to 0")
    queries = evaluation_loader(config["DataLoader"]["Eval"], settings["seed"])
    bank = bank_loader(config, loader.dataset, queries) if settings["knn_interval"] else None
    if bank is None:
        number_alike(queries.dataset.samples, known_classes(loader.dataset.samples, "DataLoader.Train"),
                     "DataLoader.Eval")
    interval = (Interval(settings["knn_interval"]) if bank is not None
                else Interval(settings["eval_interval"], settings["eval_unit"]))
    return [OnlineEvaluation(queries, bank, companions.get("online_probe"), interval, autocast,
                             backend=settings["engine"])]


def build_validation(config: Mapping[str, Any], method, interval, autocast: Callable, known: KnownClasses,
                     backend: str = "eager"):
    """Validation of a classifier on DataLoader.Eval with Loss.Eval and Metric.Eval; `backend` as of `Engine`.

    known: the classes of the classifier's outputs; those of the images get their numbers, errors see `number_alike`.
    """
    loader = evaluation_loader(config["DataLoader"]["Eval"], config["Global"]["seed"])
    number_alike(loader.dataset.samples, known, "DataLoader.Eval")
    metrics = build_metrics((config.get("Metric") or {}).get("Eval"), method.classes)
    for metric in metrics:
        too_many = [k for k in getattr(metric, "topk", ()) if k > method.classes]
        if too_many:
            raise UserError(f"Metric.Eval TopkAcc.topk holds {too_many[0]} but there are {method.classes} classes; "
                            "lower it")
    loss = WeightedSum((config.get("Loss") or {}).get("Eval") or (config.get("Loss") or {}).get("Train") or ())
    return Validation(loader, loss, metrics, interval, autocast, backend)
