"""Paddle's own optimizers under the keys of the config's Optimizer section."""
from __future__ import annotations

from typing import List

import paddle

from passl.optim.limits import check_optimizer
from passl.registry import OPTIMIZERS

CONTEXT = ("parameters", "learning_rate")
LEGACY = {"tensor_fusion": "gradients are reduced in buckets already",
          "use_master_param": "weights are fp32 at every FP16.level",
          "exp_avg_force_fp32": "moments are fp32, as the weights"}


@OPTIMIZERS.register("Momentum", context=CONTEXT, legacy=LEGACY)
def momentum_sgd(parameters, learning_rate: float = 0.0, momentum: float = 0.9, weight_decay: float = 0.0,
                 use_nesterov: bool = False):
    """SGD: v <- momentum v + (g + weight_decay p); p <- p - lr v (torch's form)."""
    check_optimizer(momentum, weight_decay=weight_decay)
    return paddle.optimizer.Momentum(learning_rate, momentum, parameters, use_nesterov=use_nesterov,
                                     weight_decay=weight_decay or None)


@OPTIMIZERS.register("AdamW", context=CONTEXT, legacy=LEGACY)
def adamw(parameters, learning_rate: float = 0.0, betas: List[float] = (0.9, 0.999), eps: float = 1e-8,
          weight_decay: float = 0.01):
    """Adam with decoupled weight decay; weight_decay 0 is plain Adam."""
    check_optimizer(betas=betas, weight_decay=weight_decay)
    return paddle.optimizer.AdamW(learning_rate, betas[0], betas[1], eps, parameters, weight_decay=weight_decay)
