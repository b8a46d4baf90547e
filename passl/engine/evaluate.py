"""`passl.evaluate`: the accuracy of a trained classifier on the data of a config."""
from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, NamedTuple, Sequence

from passl.errors import DataError, UserError

if TYPE_CHECKING:
    import numpy as np

BEFORE_TRAINING = -1  # PASSL logs an evaluation without training as epoch 0


class Evaluation(NamedTuple):
    """metrics: as Metric.Eval names them, fractions, and the loss; equal on all ranks.

    matrix: int64 [C, C] images, rows are true classes. classes: their names, or their numbers as text.
    weights: the file that was evaluated.
    """

    metrics: Dict[str, float]
    matrix: np.ndarray
    classes: List[str]
    weights: Path

    def summary(self) -> Dict[str, Any]:
        """The metrics, the number of images and the weights, for JSON."""
        return {**self.metrics, "images": int(self.matrix.sum()), "weights": str(self.weights)}

    def class_accuracy(self) -> Dict[str, float]:
        """Fraction predicted right of each class that has an image."""
        images = self.matrix.sum(1)
        return {name: float(self.matrix[row, row] / images[row]) for row, name in enumerate(self.classes)
                if images[row]}


def evaluate(config: str, overrides: Sequence[str] = (), engine: str = "auto") -> Evaluation:
    """Validate the classifier that a YAML file describes on its DataLoader.Eval, as passl-eval does; writes a log only.

    config: needs Model, DataLoader.Eval and, in the file or in `overrides` (KEY=VALUE texts as after -o),
    Global.pretrained_model. engine: what runs the network, `backend` of `passl.inference.engine.Engine`.
    Call it before anything else imports Paddle: thread count and flags are read once, at that import. ConfigError
    lists everything that is wrong with the configuration; ValueError says what is missing.

    Example:
        >>> import pathlib, numpy, paddle, passl, PIL.Image
        >>> for name, value in (("black", 0), ("white", 255)):
        ...     pathlib.Path("images", name).mkdir(parents=True)
        ...     PIL.Image.fromarray(numpy.full([32, 32, 3], value, "uint8")).save(f"images/{name}/1.png")
        >>> options = {"class_num": 2, "base_channels": 4, "stem": "small"}
        >>> paddle.save(passl.get_model("swav_resnet10_finetune", **options).state_dict(), "weights.pdparams")
        >>> count = pathlib.Path("eval.yaml").write_text('''
        ... Global: {pretrained_model: weights, device: cpu}
        ... Model:
        ...   name: swav_resnet10_finetune
        ...   class_num: 2
        ...   backbone: {type: resnet10, base_channels: 4, stem: small}
        ... DataLoader:
        ...   Eval: {dataset: {name: ImageFolder, root: images}, sampler: {batch_size: 2}}
        ... ''')
        >>> result = passl.evaluate("eval.yaml")
        [...] passl INFO: ...
        >>> result.summary()["images"], list(result.class_accuracy())
        (2, ['black', 'white'])
    """
    from passl.engine.session import start

    with start(config, overrides, "eval", trains=False) as checked:
        return evaluate_config(checked, engine)


def evaluate_config(config: Mapping[str, Any], engine: str = "auto") -> Evaluation:
    """Validate what a checked config describes, with its weights, in a process that is prepared for it."""
    from passl.data.class_numbers import KnownClasses
    from passl.engine.components import build_validation
    from passl.engine.log import LOGGER, LogLines
    from passl.engine.precision import Precision
    from passl.evaluation.metrics import ConfusionMatrix
    from passl.inference.card import class_names_of
    from passl.inference.from_config import build_classifier, is_classifier
    from passl.weights import load_into
    from passl.weights.locate import find_weights

    settings = config["Global"]
    weights = settings["pretrained_model"] or settings["checkpoint"]
    if not weights:
        raise UserError("nothing to evaluate: set Global.pretrained_model to the weights of a trained classifier, for "
                        "instance output/<Model.name>/best")
    if not (config.get("DataLoader") or {}).get("Eval"):
        raise DataError("DataLoader.Eval is missing: it names the images to evaluate on")
    if not is_classifier(config):
        raise UserError(f"{config['Model']['name']} has no classifier to evaluate: train a probe on it (a linearprobe "
                        "config), or use passl-knn")
    path = find_weights(weights)
    method = build_classifier(config, path)
    LOGGER.info(str(load_into(method.model, path, strict="all")))  # a random head would look like a bad result
    precision = Precision(config.get("FP16"), settings["device"])
    known = KnownClasses(class_names_of(path), method.classes, "the classifier")
    validation = build_validation(config, method, None, precision.autocast, known, engine)
    matrix = next((metric for metric in validation.metrics if isinstance(metric, ConfusionMatrix)), None)
    if matrix is None:
        matrix = ConfusionMatrix()
        validation.metrics = [*validation.metrics, matrix]
    lines = LogLines(settings["print_batch_step"])
    metrics = validation.run(method, partial(lines.on_evaluation_batch, BEFORE_TRAINING))
    lines.on_metrics(BEFORE_TRAINING, 0, metrics)
    counts, names = matrix.matrix(), validation.loader.dataset.classes
    validation.close()
    return Evaluation(metrics, counts, names if len(names) == len(counts) else list(map(str, range(len(counts)))), path)
