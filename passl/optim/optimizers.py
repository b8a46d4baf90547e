"""The optimizers of the config's Optimizer section: Paddle's own, and SGD under layer-wise adaptive rate control."""
from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np
import paddle

from passl.errors import UserError
from passl.optim.gradients import norms, with_gradient
from passl.registry import OPTIMIZERS

CONTEXT = ("parameters", "learning_rate")
LEGACY = {"tensor_fusion": "gradients are reduced in buckets already",
          "use_master_param": "weights are fp32 at every FP16.level",
          "exp_avg_force_fp32": "moments are fp32, as the weights"}


def check_optimizer(momentum: Optional[float] = None, betas: Sequence[float] = (), weight_decay: float = 0.0) -> None:
    """UserError for a momentum or beta outside [0, 1) and for a negative weight decay."""
    if momentum is not None and not 0 <= momentum < 1:
        raise UserError(f"Optimizer.momentum is {momentum}; the share of the old velocity lies in [0, 1), 0.9 is "
                        "usual")
    if betas and not (len(betas) == 2 and all(0 <= beta < 1 for beta in betas)):
        raise UserError(f"Optimizer.betas is {list(betas)}; expected two shares in [0, 1), [0.9, 0.999] is usual")
    if weight_decay < 0:
        raise UserError(f"Optimizer.weight_decay is {weight_decay}; it is at least 0, and 1e-6 in SwAV's recipes")


@OPTIMIZERS.register("Momentum", context=CONTEXT, legacy=LEGACY)
def momentum_sgd(parameters, learning_rate: float = 0.0, momentum: float = 0.9, weight_decay: float = 0.0,
                 use_nesterov: bool = False):
    """SGD: v <- momentum v + (g + weight_decay p); p <- p - lr v (torch's form)."""
    check_optimizer(momentum, weight_decay=weight_decay)
    return paddle.optimizer.Momentum(learning_rate, momentum, parameters, use_nesterov=use_nesterov,
                                     weight_decay=weight_decay or None)


@OPTIMIZERS.register("AdamW", context=CONTEXT, legacy=LEGACY)
def adamw(parameters, learning_rate: float = 0.0, betas: Sequence[float] = (0.9, 0.999), eps: float = 1e-8,
          weight_decay: float = 0.01):
    """Adam with decoupled weight decay; weight_decay 0 is plain Adam."""
    check_optimizer(betas=betas, weight_decay=weight_decay)
    return paddle.optimizer.AdamW(learning_rate, betas[0], betas[1], eps, parameters, weight_decay=weight_decay)


@OPTIMIZERS.register("MomentumLARC", context=CONTEXT, legacy=LEGACY)
class MomentumLARC(paddle.optimizer.Momentum):
    """Per tensor p with gradient g: g <- eta (g + wd p), eta = trust |p| / (|g| + wd |p| + 1e-8); then momentum SGD.

    Where |p| or |g| is zero (every batch-norm bias at its first step), g is left as it is, without weight decay.
    Parameters without gradient are skipped altogether. The trust ratio is inside the momentum buffer, the learning
    rate outside. No tensor is excluded: norms and biases are scaled too. (LARC: You et al. 2017,
    arXiv 1708.03888; as NVIDIA apex's around torch's SGD.)

    clip: use min(eta/lr, 1) instead of eta, i.e. LARC's clipping mode (1 while lr is 0); False in every published
      SwAV run.
    """

    def __init__(self, parameters, learning_rate: float = 0.0, momentum: float = 0.9, weight_decay: float = 0.0,
                 trust_coefficient: float = 0.001, clip: bool = False, epsilon: float = 1e-8):
        check_optimizer(momentum, weight_decay=weight_decay)
        super().__init__(learning_rate=learning_rate, momentum=momentum, parameters=parameters)
        self._decay = weight_decay
        self._trust = trust_coefficient
        self._clip = clip
        self._epsilon = epsilon
        self._measured: Optional[List[Tuple[paddle.Tensor, float, float]]] = None  # by `measure`, for the next `step`

    @paddle.no_grad()
    def measure(self) -> bool:
        """Fetch the norms that `step` needs; False when a gradient's is NaN or infinite.

        Gradients must not change between `measure` and `step`; `step` measures by itself when nobody has.
        """
        parameters = with_gradient(self._parameter_list)
        # All norms are fetched at once: one wait for the device a step, and plain numbers from here on.
        pairs = norms([tensor for parameter in parameters for tensor in (parameter, parameter.grad)]).reshape(-1, 2)
        self._measured = [(parameter, float(weight), float(gradient))
                          for parameter, (weight, gradient) in zip(parameters, pairs)]
        return bool(np.isfinite(pairs[:, 1]).all())

    @paddle.no_grad()
    def step(self):
        if self._measured is None:
            self.measure()
        for parameter, weight, gradient in self._measured or []:
            self._scale_gradient(parameter, weight, gradient)
        self._measured = None
        super().step()

    def _scale_gradient(self, parameter, weight_norm: float, gradient_norm: float) -> None:
        if weight_norm == 0 or gradient_norm == 0:
            return
        rate = self._trust * weight_norm / (gradient_norm + self._decay * weight_norm + self._epsilon)
        if self._clip:
            learning_rate = self.get_lr()
            rate = min(rate / learning_rate, 1.0) if learning_rate else 1.0  # the limit: warm-up may start at 0
        parameter.grad.scale_(rate)
        if self._decay:
            parameter.grad.add_(parameter.detach().scale(rate * self._decay))
