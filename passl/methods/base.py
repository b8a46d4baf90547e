"""What the trainer asks of a method; the unit of extension (docs/add_a_method.md walks through one)."""
from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import paddle

from passl.models.backbones import ARCHITECTURES


def names(method: str, prefix: str) -> List[str]:
    """What a method may be called in a config: its own name, and PASSL's form <prefix>_<architecture>_pretrain."""
    return [method] + [f"{prefix}_{architecture}_pretrain" for architecture in ARCHITECTURES]


class Method:
    """A network, its loss and whatever state the loss needs between steps.

    The trainer calls, in this order:
      `distribute(wrap)` once, before the first step;
      `on_epoch_start(epoch, embed)` at every epoch;
      per step: `plan(batches)`, then `training_step(batch, plan)` and backward for every micro-batch, then
      `after_backward(step)`, the optimizer, and `after_step(step)`.
    Nothing reaches back: a method never sees the trainer, the optimizer or the data loader.

    Attributes
      model: the network whose parameters are trained and saved as `.pdparams`.
      network: what training calls: `model`, or its data-parallel wrapper.
      needs_memory_pass: the trainer hands `on_epoch_start` an iterator over the whole training set (see there).
      pretrained_part: what of Global.pretrained_model is used: "all" of it, or its "trunk".
      uniform_loss: the loss when every prediction is uniform, where a run that does not learn stays; with it and the
        statistic `target_entropy` a run is watched for collapse (passl/engine/watch.py).
      published_rates: lowest and highest learning rate published for the recipe at a global batch of 256.

    Everything that outlives a step is either in `model` or returned by `shared_state` (equal on every rank) or
    `rank_state` (this rank's own), as plain dicts of numpy arrays and numbers, and exists from construction on.
    """

    model: paddle.nn.Layer
    network: Callable
    needs_memory_pass = False
    pretrained_part = "all"
    uniform_loss: Optional[float] = None
    published_rates: Optional[Tuple[float, float]] = None

    def distribute(self, wrap: Callable[[paddle.nn.Layer], Callable]) -> None:
        """Let `wrap` (gradient reduction over ranks) stand between training and the model."""
        self.network = wrap(self.model)

    def trainable_parameters(self) -> List[Tuple[str, paddle.Tensor]]:
        """(structured name, parameter) of everything the optimizer may change."""
        return [(name, p) for name, p in self.model.named_parameters() if not p.stop_gradient]

    def train(self) -> None:
        """Put the network in the mode its training uses."""
        self.model.train()

    def on_epoch_start(self, epoch: int, batches: Optional[Callable] = None) -> None:
        """Called, under autocast, before the first batch of an epoch (not when resuming in its middle).

        `batches()` iterates once over this rank's training data, as device batches, when `needs_memory_pass`.
        """

    def plan(self, batches: Sequence[Dict[str, Any]]) -> List[Any]:
        """What must be computed over all micro-batches of a step before their gradients, one entry for each.

        With a single micro-batch the entry is None and `training_step` computes it from its own forward pass.
        """
        return [None] * len(batches)

    def training_step(self, batch: Dict[str, Any], plan: Any) -> Tuple[paddle.Tensor, Dict[str, paddle.Tensor]]:
        """Loss of one micro-batch (mean over this rank's images) and named statistics as scalar tensors."""
        raise NotImplementedError

    def after_backward(self, step: int) -> None:
        """Called between backward and the optimizer; `step` counts optimizer steps of the whole run from 0."""

    def after_step(self, step: int) -> None:
        """Called after the optimizer."""

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
