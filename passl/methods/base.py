"""What the trainer asks of a method; the unit of extension (docs/add_a_method.md walks through one)."""
from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

import paddle

from passl.errors import UserError
from passl.findings import Finding
from passl.models.base import Network
from passl.models.build import build_network
from passl.models.networks import group_by_resolution


@dataclass(frozen=True)
class RunFacts:
    """What a method may need to know of the run it is built for; the defaults are those of a single image.

    batch_size: images a process takes for one step. world_size: processes. iterations_per_epoch, epochs: steps are
    their product. crop_count: crops of an image, None when the data are not cut into crops. dataset_size: training
    images. class_count: classes of the training data, None when unknown. seed: Global.seed.
    """

    batch_size: int = 1
    world_size: int = 1
    iterations_per_epoch: int = 1
    epochs: int = 1
    crop_count: Optional[int] = None
    dataset_size: int = 1
    class_count: Optional[int] = None
    seed: int = 0

    @property
    def global_batch(self) -> int:
        return self.batch_size * self.world_size

    @property
    def steps(self) -> int:
        return self.epochs * self.iterations_per_epoch

    @property
    def images_per_epoch(self) -> int:
        """Images that an epoch shows; the incomplete last batch may be dropped."""
        return min(self.dataset_size, self.iterations_per_epoch * self.global_batch)


def full_precision(function: Callable) -> Callable:
    """Decorator for what makes targets and loss of the network's fp32 outputs: it runs outside autocast.

    The loop calls a method under autocast, which runs every matrix product in half precision, whatever its inputs.
    """

    @functools.wraps(function)
    def outside_autocast(*arguments, **keywords):
        with paddle.amp.auto_cast(enable=False):
            return function(*arguments, **keywords)

    return outside_autocast


def check_positive(**settings: Tuple[float, float]) -> None:
    """Refuse numbers that are not above 0; `settings` maps a key of the Model section to (its value, a usual one)."""
    for key, (value, usual) in settings.items():
        if not value > 0:
            raise UserError(f"Model.{key} is {value} and must be above 0: {usual} is usual")


def check_not_negative(**settings: float) -> None:
    """Refuse numbers below 0; `settings` maps a key of the Model section to its value."""
    for key, value in settings.items():
        if value < 0:
            raise UserError(f"Model.{key} is {value} and must be at least 0")


def check_prototypes(counts: Union[int, Sequence[int]]) -> None:
    """Refuse fewer than two prototypes; `counts` is Model.backbone.nmb_prototypes."""
    if min([counts] if isinstance(counts, int) else counts) < 2:
        raise UserError(f"Model.backbone.nmb_prototypes is {counts}: with fewer than 2 every image has the same "
                        "assignment, the loss is 0 and nothing is learnt; about 10 per expected class is usual")


def freeze_length(steps: int, epochs: Optional[float], run: RunFacts) -> int:
    """Steps without gradient for the prototypes: freeze_prototypes_epochs where it is given, else the number itself."""
    return steps if epochs is None else math.ceil(epochs * run.iterations_per_epoch)


def features_of_images(features: paddle.Tensor, views: Sequence[paddle.Tensor],
                       shown: Callable[[int], bool] = lambda view: True) -> paddle.Tensor:
    """`Step.features` [n, B, F] of trunk features [V * B, F]: the views of the first resolution for which `shown`."""
    rows = features.detach().reshape([len(views), -1, features.shape[-1]])
    chosen = [view for view in range(len(group_by_resolution(views)[0])) if shown(view)]
    return paddle.index_select(rows, paddle.to_tensor(chosen))


class Step(NamedTuple):
    """What a training step gives back; a plain (loss, statistics) is one, too.

    loss: mean over the micro-batch's images. statistics: named scalar tensors for the log. features: trunk features
    [n, B, F] of n views that show the batch's images themselves, without gradient, for what watches them
    (Global.online_probe); None when the method has none to show.
    """

    loss: paddle.Tensor
    statistics: Dict[str, paddle.Tensor]
    features: Optional[paddle.Tensor] = None


class Method:
    """A network, its loss and whatever state the loss needs between steps.

    The trainer calls, in this order:
      `distribute(wrap)` once, before the first step;
      per step: `on_pass(position, batches)` if `due_pass(position)`, `on_epoch_start(epoch)` when it is the first of
      its epoch, `before_step(step)`, `plan(batches)`, then `training_step(batch, plan)` and backward for every
      micro-batch, then `after_backward(position)`, the optimizer, and `after_step(step)`.
    `step` is the number of the step from 0, those left out for a NaN included. `position` is its place in the schedule:
    the steps that lie behind, had the whole run been made with the present global batch.
    Nothing reaches back: a method never sees the trainer, the optimizer or the data loader.

    Attributes
      model: the network whose parameters are trained and saved as `.pdparams`.
      network: what training calls: `model`, or its data-parallel wrapper.
      has_embedding: the network projects its features to embeddings, which clustering wants on the unit sphere.
      is_classifier: trained on labels; the Loss and Metric sections and Global.eval_during_train are for it.
      pretrained_part: what of Global.pretrained_model is used: "all" of it, or its "trunk".
      allow_untrained_trunk: whether a run may start without Global.pretrained_model.
      prototype_heads: "one" when Model.backbone.nmb_prototypes is a number, "several" when it lists a number for each
        head, "none" for a method without prototypes.
      published_rates: (optimizer, lowest, highest learning rate) that were published for the recipe, at a global batch
        of 256.
    For the watch (passl/engine/watch.py), which looks at methods that set the first and report `target_entropy`:
      uniform_loss: the loss when every prediction is uniform, where a run that does not learn stays.
      frozen_steps: steps during which the prototypes get no gradient.

    Everything that outlives a step is either in `model` or returned by `shared_state` (equal on every rank) or
    `rank_state` (this rank's own), as plain dicts of numpy arrays and numbers, and exists from construction on.
    """

    model: Network
    network: Callable
    has_embedding = True
    is_classifier = False
    pretrained_part = "all"
    allow_untrained_trunk = True
    prototype_heads = "one"
    published_rates: Optional[Tuple[str, float, float]] = None
    uniform_loss: Optional[float] = None
    frozen_steps = 0

    @classmethod
    def build_network(cls, backbone: Dict[str, Any]) -> Network:
        """The network of Model.backbone without anything that only training needs."""
        return build_network(backbone, "pretrain")

    def distribute(self, wrap: Callable[[paddle.nn.Layer], Callable]) -> None:
        """Let `wrap` (gradient reduction over ranks) stand between training and the model."""
        self.network = wrap(self.model)

    def trainable_parameters(self) -> List[Tuple[str, paddle.Tensor]]:
        """(structured name, parameter) of everything the optimizer may change."""
        return [(name, p) for name, p in self.model.named_parameters() if not p.stop_gradient]

    def train(self) -> None:
        """Put the network in the mode its training uses."""
        self.model.train()

    def advice(self, run: RunFacts) -> List[Finding]:
        """Settings that are possible but not sensible for this run."""
        return []

    def due_pass(self, position: int) -> int:
        """The number, from 1, of the pass over the training data that `on_pass` must see before this step; 0: none.

        Passes of different numbers show different crops. Asked before every step, on every rank with the same answer;
        one that follows from the settings and from the saved state, so that a resumed run neither repeats nor misses
        a pass.
        """
        return 0

    def on_pass(self, position: int, batches: Callable[[], Iterable[Dict[str, Any]]]) -> None:
        """Called, under autocast, between two steps (or before the first one).

        `batches()` iterates once over this rank's training data, as device batches: images in the order of the present
        epoch, crops that neither training nor another pass shows.
        """

    def on_epoch_start(self, epoch: int) -> None:
        """Called, under autocast, before the first step of an epoch (not when resuming in its middle)."""

    def before_step(self, step: int) -> None:
        """Called first in a step."""

    def plan(self, batches: Sequence[Dict[str, Any]]) -> List[Any]:
        """What must be computed over all micro-batches of a step before their gradients, one entry for each.

        With a single micro-batch the entry is None and `training_step` computes it from its own forward pass.
        """
        return [None] * len(batches)

    def training_step(self, batch: Dict[str, Any], plan: Any) -> Union[Step, Tuple[paddle.Tensor, Dict[str, Any]]]:
        """Loss of one micro-batch and what there is to say of it.

        The trainer averages losses and statistics over the micro-batches of a step, weighted by their images.
        """
        raise NotImplementedError

    def after_backward(self, position: int) -> None:
        """Called between backward and the optimizer, unless the loss is not finite; holds frozen prototypes."""
        if position < self.frozen_steps:
            self.model.hold_prototypes()

    def after_step(self, step: int) -> None:
        """Called after the optimizer, unless the step was left out."""

    def histograms(self) -> Dict[str, Any]:
        """Named arrays of counts since the epoch began, for monitoring (this rank's share)."""
        return {}

    def undo_point(self) -> Callable[[], None]:
        """Remember what a forward pass changes besides gradients; the returned function puts it back.

        Taken before every step: when loss or gradients turn out NaN, batch norm has already mixed it into its
        statistics. Copies what is not trainable (Paddle keeps running statistics among the parameters, marked so) of
        the layers in training mode; a frozen trunk is none of them.
        """
        buffers = [(tensor, tensor.clone()) for layer in self.model.sublayers(include_self=True) if layer.training
                   for tensor in (*layer.parameters(include_sublayers=False), *layer.buffers(include_sublayers=False))
                   if tensor.stop_gradient]

        def restore():
            for buffer, value in buffers:
                buffer.set_value(value)

        return restore

    def shared_state(self) -> Dict[str, Any]:
        return {}

    def load_shared_state(self, state: Dict[str, Any]) -> None:
        """Inverse of `shared_state`."""

    def rank_state(self) -> Dict[str, Any]:
        return {}

    def load_rank_states(self, states: List[Dict[str, Any]], rank: int, world_size: int) -> Optional[str]:
        """Restore from the states of all ranks of the saved run, which may have had another number of ranks.

        Returns a sentence for the log when something had to be re-divided.
        """
        return None
