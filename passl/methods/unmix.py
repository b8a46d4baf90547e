"""Un-Mix on SwAV: mixtures of images whose similarity to each part is known (Shen et al. 2020, arXiv 2003.05438)."""
from __future__ import annotations

import math
from typing import Any, Dict, List, Literal, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle

from passl.errors import UserError
from passl.findings import Finding
from passl.methods.base import RunFacts, full_precision
from passl.methods.swav import SwAV, swapped_loss
from passl.registry import METHODS

Box = Tuple[int, int, int, int]  # row0, column0, row1, column1


class Mixture(NamedTuple):
    """How a step mixes: `weight` is an image's own share; `boxes`, one for each pair of crops, are pasted from the
    partner (region mixture); without boxes whole images are blended (global mixture)."""

    weight: float
    boxes: Optional[List[Box]]


def cut_box(weight: float, height: int, width: int, generator: np.random.Generator) -> Box:
    """CutMix's box: sides sqrt(1 - weight) of the image, centre uniform over it, clipped at the border."""
    ratio = math.sqrt(1.0 - weight)
    rows, columns = int(height * ratio), int(width * ratio)
    row, column = int(generator.integers(height)), int(generator.integers(width))
    return (max(row - rows // 2, 0), max(column - columns // 2, 0),
            min(row + rows // 2, height), min(column + columns // 2, width))


def own_share(box: Box, height: int, width: int) -> float:
    """Share of the image outside the box."""
    return 1.0 - (box[2] - box[0]) * (box[3] - box[1]) / (height * width)


def draw_mixture(generator: np.random.Generator, sizes: Sequence[Tuple[int, int]], probability: float, beta: float,
                 compat: str = "paper") -> Mixture:
    """One step's mixture: global with `probability`, else region; the weight is Beta(beta, beta).

    sizes: (height, width) of each pair of crops. 'paper' draws one box, in pixels of the first pair, scales it to the
    others, and the weight is the share it leaves. 'reference' draws a new box for every pair, from the share that the
    box before it left, and the loss is weighted by the last share, as the published code does.
    """
    is_global = generator.random() < probability
    weight = float(generator.beta(beta, beta))
    if is_global:
        return Mixture(weight, None)
    boxes: List[Box] = []
    for height, width in sizes:
        if boxes and compat == "paper":
            row0, column0, row1, column1 = boxes[0]
            down, across = height / sizes[0][0], width / sizes[0][1]
            boxes.append((round(row0 * down), round(column0 * across), round(row1 * down), round(column1 * across)))
            continue
        boxes.append(cut_box(weight, height, width, generator))
        weight = own_share(boxes[-1], height, width)
    return Mixture(weight, boxes)


def partners(values: paddle.Tensor) -> paddle.Tensor:
    """[B, ...] rearranged so that row n is of the image that image n is mixed with: this rank's batch reversed."""
    return paddle.flip(values, axis=[0])


def mix(crop: paddle.Tensor, mixture: Mixture, pair: int) -> paddle.Tensor:
    """[B, 3, H, W] mixed with the same crop of the partners."""
    partner = partners(crop)
    if mixture.boxes is None:
        return mixture.weight * crop + (1.0 - mixture.weight) * partner
    row0, column0, row1, column1 = mixture.boxes[pair]
    inside = paddle.zeros([1, 1, *crop.shape[2:]], "bool")
    if row1 > row0 and column1 > column0:
        inside[:, :, row0:row1, column0:column1] = True
    return paddle.where(inside.expand_as(crop), partner, crop)


@METHODS.register("UnMixSwAV", "unmix_swav_{trunk}_pretrain", context=("run",))
class UnMixSwAV(SwAV):
    """SwAV whose even crops are also shown mixed with another image, weighted by how much of each image they hold.

    Every even crop has a third companion besides its neighbour: its mixture. With O the crops, M the crops with
    mixtures in place of the even ones and R the same with each mixture's partner as the image it is compared with,
    loss = SwAV(O) + w SwAV(M) + (1 - w) SwAV(R), w the image's own share of the mixture. Weight, kind and boxes are
    equal on all ranks and follow from (seed, step). Costs half as much again as SwAV. Parameters beyond SwAV's:

    unmix_prob: share of steps that blend whole images; the others paste a region. 0.5 on CIFAR, 0 on ImageNet.
    unmix_beta: parameter of the Beta distribution of the weight; 1 is uniform.
    unmix_compat: 'paper', or 'reference' to follow the published code: there R is M with only crop 0's targets
      reversed, boxes differ between crop pairs with a share that drifts towards 1, and a queue cannot be used.
    """

    def __init__(self, backbone: Dict[str, Any], temperature: float = 0.1, epsilon: float = 0.05,
                 sinkhorn_iterations: int = 3, crops_for_assign: Sequence[int] = (0, 1),
                 nmb_crops: Optional[List[int]] = None, queue_length: int = 0, epoch_queue_starts: int = 15,
                 freeze_prototypes_niters: int = 313, freeze_prototypes_epochs: Optional[float] = None,
                 assignment: Literal["soft", "hard"] = "soft", unmix_prob: float = 0.5, unmix_beta: float = 1.0,
                 unmix_compat: Literal["paper", "reference"] = "paper", run: RunFacts = RunFacts()):
        if not 0 <= unmix_prob <= 1 or not unmix_beta > 0:
            raise UserError(f"Model.unmix_prob {unmix_prob} must lie between 0 and 1 and Model.unmix_beta "
                            f"{unmix_beta} above 0")
        if run.crop_count is not None and run.crop_count % 2:
            raise UserError(f"Un-Mix takes crops in pairs, but DataLoader.Train.dataset.num_crops adds up to "
                            f"{run.crop_count}: make every entry even")
        if unmix_compat == "reference" and queue_length:
            raise UserError("the published Un-Mix code fails as soon as its queue is used: set Model.queue_length 0 "
                            "or Model.unmix_compat paper")
        super().__init__(backbone, temperature, epsilon, sinkhorn_iterations, crops_for_assign, nmb_crops,
                         queue_length, epoch_queue_starts, freeze_prototypes_niters, freeze_prototypes_epochs,
                         assignment, run)
        self.unmix_prob, self.unmix_beta, self.compat = unmix_prob, unmix_beta, unmix_compat
        self.seed, self.step = run.seed, 0
        # SwAV's, once for the crops and, the two weighted, once for the mixtures.
        self.uniform_loss = 2 * math.log(backbone["nmb_prototypes"])
        # The network sees (crop 0, crop 1, mixture of 0, crop 2, crop 3, mixture of 2, ...).
        mixed = [position for position, crop in enumerate(self.crops_for_assign) if crop % 2 == 0]
        self.assigned_views = ([original(crop) for crop in self.crops_for_assign]
                               + [mixture_of(self.crops_for_assign[position]) for position in mixed])
        self.queue_of_view = [*range(len(self.crops_for_assign)), *mixed]

    def advice(self, run):
        findings = super().advice(run)
        if run.batch_size == 1 and run.world_size > 1:
            findings.append(Finding("refusal", "Un-Mix mixes the images of a process with each other, and each has one",
                                    "take more images a step", ("DataLoader.Train.sampler.batch_size=64",)))
        return findings

    def before_step(self, step):
        self.step = step

    def draw(self, sizes: Sequence[Tuple[int, int]]) -> Mixture:
        """This step's mixture, the same on every rank and for every micro-batch."""
        generator = np.random.default_rng([self.seed, self.step])
        return draw_mixture(generator, sizes, self.unmix_prob, self.unmix_beta, self.compat)

    def views(self, batch):
        crops = batch["crops"]
        pairs = list(zip(crops[::2], crops[1::2]))
        if len(crops) % 2 or any(even.shape[2:] != odd.shape[2:] for even, odd in pairs):
            sides = [crop.shape[-1] for crop in crops]
            raise UserError(f"Un-Mix takes crops in pairs of one size, got sides {sides}: make every entry of "
                            "DataLoader.Train.dataset.num_crops even")
        mixture = self.draw([tuple(even.shape[2:]) for even, _ in pairs])
        return [view for pair, (even, odd) in enumerate(pairs)
                for view in (even, odd, mix(even, mixture, pair))], mixture

    def shows_image(self, view):
        return view % 3 != 2

    @full_precision
    def loss(self, scores, targets, mixture):
        crops = range(2 * scores.shape[0] // 3)
        plain = paddle.stack([scores[original(crop)] for crop in crops])
        mixed = paddle.stack([scores[original(crop) if crop % 2 else mixture_of(crop)] for crop in crops])
        assigned = len(self.crops_for_assign)
        plain_targets = targets[:assigned]
        order = list(range(assigned))
        for place, position in enumerate(self.queue_of_view[assigned:]):
            order[position] = assigned + place
        mixed_targets = paddle.stack([targets[place] for place in order])
        if self.compat == "paper":
            # Mixture n holds 1 - weight of image B-1-n: reversed, its rows stand beside that image's other crops.
            reversed_scores = exchange_partners(mixed, [crop % 2 == 0 for crop in crops])
            reversed_targets = exchange_partners(mixed_targets, [crop % 2 == 0 for crop in self.crops_for_assign])
        else:
            reversed_scores = mixed
            reversed_targets = exchange_partners(mixed_targets, [crop == 0 for crop in self.crops_for_assign])
        parts = {"loss_original": self._swapped(plain, plain_targets),
                 "loss_mixture": self._swapped(mixed, mixed_targets),
                 "loss_mixture_reversed": self._swapped(reversed_scores, reversed_targets)}
        total = (parts["loss_original"] + mixture.weight * parts["loss_mixture"]
                 + (1.0 - mixture.weight) * parts["loss_mixture_reversed"])
        return total, {name: part.detach() for name, part in parts.items()}

    def _swapped(self, scores, targets):
        return swapped_loss(scores, targets, self.crops_for_assign, self.temperature)


def original(crop: int) -> int:
    """Position of a crop among the views."""
    return 3 * (crop // 2) + crop % 2


def mixture_of(crop: int) -> int:
    """Position of an even crop's mixture among the views."""
    return 3 * (crop // 2) + 2


def exchange_partners(values: paddle.Tensor, chosen: Sequence[bool]) -> paddle.Tensor:
    """[V, B, K] with rows and their partners' rows exchanged at the chosen first indices."""
    return paddle.stack([partners(value) if exchange else value for value, exchange in zip(values, chosen)])
