"""Which evaluations a run makes, and when."""
from __future__ import annotations

from typing import Any, Callable, List, Mapping, NamedTuple

from passl.errors import UserError


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
        return [build_validation(config, method, Interval(settings["eval_interval"], settings["eval_unit"]), autocast,
                                 loader.dataset.classes)]
    if settings["eval_during_train"]:
        raise UserError("Global.eval_during_train: pretraining has no classifier to evaluate; use Global.knn_interval: "
                       "1 or Global.online_probe: True")
    if not settings["knn_interval"] and not (settings["online_probe"] and has_queries):
        return []
    if not has_queries:
        raise UserError("Global.knn_interval needs DataLoader.Eval, the labelled images to classify: add it, or set "
                       "knn_interval to 0")
    from passl.evaluation.labelled_data import bank_loader, check_same_classes, evaluation_loader
    from passl.evaluation.online import OnlineEvaluation

    queries = evaluation_loader(config["DataLoader"]["Eval"], settings["seed"])
    bank = bank_loader(config, loader.dataset, queries) if settings["knn_interval"] else None
    if settings["online_probe"]:
        check_same_classes(loader.dataset.classes, queries.dataset.classes, "DataLoader.Train", "DataLoader.Eval")
    interval = (Interval(settings["knn_interval"]) if bank is not None
                else Interval(settings["eval_interval"], settings["eval_unit"]))
    return [OnlineEvaluation(queries, bank, companions.get("online_probe"), interval, autocast)]


def build_validation(config: Mapping[str, Any], method, interval, autocast: Callable, train_classes=()):
    """Validation of a classifier on DataLoader.Eval with Loss.Eval and Metric.Eval.

    DataError when its classes are not those of training; ValueError when there are more than the classifier has.
    """
    from passl.evaluation.labelled_data import check_same_classes, evaluation_loader
    from passl.evaluation.validate import Validation, build_metrics
    from passl.methods.losses import WeightedSum

    loader = evaluation_loader(config["DataLoader"]["Eval"], config["Global"]["seed"])
    check_same_classes(train_classes, loader.dataset.classes, "DataLoader.Train", "DataLoader.Eval")
    highest = int(loader.dataset.labels.max())
    if highest >= method.classes:
        raise UserError(f"DataLoader.Eval has labels up to {highest} and the classifier {method.classes} outputs: set "
                        "Model.class_num to the number of classes it was trained on, or evaluate on their data")
    metrics = build_metrics((config.get("Metric") or {}).get("Eval"), method.classes)
    for metric in metrics:
        too_many = [k for k in getattr(metric, "topk", ()) if k > method.classes]
        if too_many:
            raise UserError(f"Metric.Eval TopkAcc.topk holds {too_many[0]} but there are {method.classes} classes; "
                            "lower it")
    loss = WeightedSum((config.get("Loss") or {}).get("Eval") or (config.get("Loss") or {}).get("Train") or ())
    return Validation(loader, loss, metrics, interval, autocast)
