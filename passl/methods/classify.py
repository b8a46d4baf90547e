"""What a pretrained trunk is worth: linear probe and fine-tuning (SwAV section 4.1; see docs/evaluation.md)."""
from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import paddle
import paddle.nn.functional as F

from passl.errors import UserError
from passl.methods.base import Method, RunFacts, full_precision
from passl.models.base import Network
from passl.models.build import build_network
from passl.registry import LOSSES, METHODS


@LOSSES.register("CELoss")
class CELoss:
    """Mean cross-entropy of logits [B, C] and integer labels [B], in fp32; labels of -1 are left out.

    epsilon: label smoothing, the share of the target spread evenly over all classes (0: none, as published for probe
    and fine-tuning).
    """

    def __init__(self, epsilon: float = 0.0):
        if not 0 <= epsilon < 1:
            raise UserError(f"CELoss.epsilon is a share of the target between 0 and 1, got {epsilon}")
        self.epsilon = epsilon

    def __call__(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        if logits.ndim != 2 or list(labels.shape) != [logits.shape[0]] or labels.is_floating_point():
            raise UserError(f"CELoss needs logits [B, C] and integer labels [B], got {list(logits.shape)} and "
                            f"{labels.dtype} {list(labels.shape)}")
        if logits.dtype != paddle.float64:
            logits = logits.astype("float32")
        log_probabilities = F.log_softmax(logits, axis=1)
        labelled = (labels >= 0).astype(logits.dtype)
        own = paddle.take_along_axis(log_probabilities, labels.clip(min=0).unsqueeze(1), axis=1).squeeze(1)
        losses = -(1 - self.epsilon) * own
        if self.epsilon:
            losses = losses - self.epsilon * log_probabilities.mean(axis=1)
        return (losses * labelled).sum() / labelled.sum().clip(min=1)


class WeightedSum:
    """Sum of the losses of a Loss.Train or Loss.Eval list, each with its `weight`; CELoss when there is no list."""

    def __init__(self, entries: Sequence[Mapping[str, Mapping[str, Any]]] = ()):
        self.terms: List[Tuple[float, Any]] = []
        for entry in entries or [{"CELoss": {}}]:
            (name, arguments), = entry.items()
            arguments = dict(arguments or {})
            weight = arguments.pop("weight", 1.0)
            self.terms.append((weight, LOSSES.build({**arguments, "name": name})))

    @full_precision
    def __call__(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        return sum(weight * term(logits, labels) for weight, term in self.terms)


CONTEXT = ("run", "losses", "metrics")


def decide_classes(class_num: Optional[int], output_dim: int, class_count: Optional[int]) -> int:
    """Outputs of the classifier, from Model.class_num, Model.backbone.output_dim or the data, when they agree."""
    if class_num and output_dim and class_num != output_dim:
        raise UserError(f"Model.class_num {class_num} and Model.backbone.output_dim {output_dim} both give the number "
                        "of classes and differ: keep one")
    classes = class_num or output_dim or class_count
    if not classes:
        raise UserError("the data do not tell the number of classes: set Model.class_num")
    if classes < 2:
        raise UserError(f"a classifier of {classes} class gives every image that class, its loss is 0 and nothing is "
                        "learnt: give DataLoader.Train images of at least 2 classes")
    if class_count and class_count > classes:
        raise UserError(f"the training data have {class_count} classes and the classifier {classes} outputs: set "
                        f"Model.class_num to {class_count}")
    return classes


def top_fractions(logits: paddle.Tensor, labels: paddle.Tensor, ks: List[int]) -> Dict[str, paddle.Tensor]:
    """{"top1": share of the batch whose label is the largest logit, ...} as scalar tensors, without a host sync."""
    ranked = paddle.topk(logits.detach(), max(ks), axis=1)[1] == labels.unsqueeze(1)
    return {f"top{k}": ranked[:, :k].astype("float32").sum(axis=1).mean() for k in ks}


class Classification(Method):
    """Loss and training accuracy of a classifier; batches are {"image": [B, 3, H, W], "label": int64 [B]}."""

    # Learning rates (lowest, highest) published for this recipe at a global batch of 256.
    published_rates: Tuple[str, float, float]
    # Only the trunk of Global.pretrained_model is used: a classifier starts afresh (Global.checkpoint resumes one).
    pretrained_part = "trunk"
    is_classifier = True
    has_embedding = False
    prototype_heads = "none"

    def __init__(self, model: Network, classes: int, losses, metrics):
        self.model = self.network = model
        self.classes = classes
        self.loss = WeightedSum(losses or ())
        self.topk: List[int] = []
        for entry in metrics or ():
            (name, arguments), = entry.items()
            if name != "TopkAcc":
                raise UserError(f"Metric.Train: {name} is not computed while training; TopkAcc is. Metric.Eval takes "
                                "every metric")
            wanted = (arguments or {}).get("topk", (1, 5))
            self.topk += [wanted] if isinstance(wanted, int) else list(wanted)
        if self.topk and max(self.topk) > classes:
            raise UserError(f"Metric.Train TopkAcc.topk holds {max(self.topk)} but there are {classes} classes; set "
                            f"it to {[k for k in self.topk if k <= classes] or [1]}")

    def training_step(self, batch, plan):
        logits = self.network(batch["image"])
        statistics = top_fractions(logits, batch["label"], self.topk) if self.topk else {}
        return self.loss(logits, batch["label"]), statistics


@METHODS.register("LinearProbe", "swav_{trunk}_linearprobe", context=CONTEXT)
class LinearProbe(Classification):
    """A linear classifier on the frozen trunk: what "linear top-1" of a paper means.

    backbone: type and options of the trunk; it has no head here.
    class_num: outputs; by default the number of classes of the training data.
    global_pooling: average over the whole feature map; False keeps 2x2 positions (four times the features).
    use_bn: batch norm before the classifier. With it, learning rates transfer better between trunks.
    allow_untrained_trunk: train without Global.pretrained_model, on random features: only as a baseline.
    """

    published_rates = ("Momentum", 0.3, 0.3)

    def __init__(self, backbone: Dict[str, Any], class_num: Optional[int] = None, global_pooling: bool = True,
                 use_bn: bool = False, allow_untrained_trunk: bool = False, run: RunFacts = RunFacts(),
                 losses=None, metrics=None):
        for key in ("output_dim", "nmb_prototypes", "hidden_mlp"):
            if backbone.get(key):
                raise UserError(f"Model.backbone.{key} {backbone[key]}: a linear probe reads the trunk itself, not "
                                "projection head or prototypes; drop the key")
        classes = decide_classes(class_num, 0, run.class_count)
        own = dict(class_num=classes, global_pooling=global_pooling, use_bn=use_bn)
        super().__init__(build_network(backbone, "linearprobe", **own), classes, losses, metrics)
        self.allow_untrained_trunk = allow_untrained_trunk


@METHODS.register("FineTune", "swav_{trunk}_finetune", context=CONTEXT)
class FineTune(Classification):
    """Trunk and a new classifier trained together, batch norm included, on few labels or many.

    backbone: type and options of the trunk; `output_dim` is PASSL's place for the number of classes.
    class_num: outputs; by default the number of classes of the training data.
    The classifier is the parameter group `res_model.projection_head`, with a learning rate of its own.
    """

    published_rates = ("Momentum", 0.01, 0.02)

    def __init__(self, backbone: Dict[str, Any], class_num: Optional[int] = None, run: RunFacts = RunFacts(),
                 losses=None, metrics=None):
        for key in ("nmb_prototypes", "normalize", "eval_mode", "hidden_mlp"):
            if backbone.get(key):
                raise UserError(f"Model.backbone.{key} {backbone[key]} makes no sense for fine-tuning: the classifier "
                                "is one Linear on pooled features; drop the key")
        classes = decide_classes(class_num, backbone.get("output_dim", 0), run.class_count)
        super().__init__(build_network(backbone, "finetune", class_num=classes), classes, losses, metrics)
