"""Paddle's own optimizers under the keys of the config's Optimizer section."""
from __future__ import annotations

from typing import List

import paddle

from passl.registry import OPTIMIZERS

CONTEXT = ("parameters", "learning_rate", "master_weights")
LEGACY = {"tensor_fusion": "gradients are reduced in buckets already",
          "use_master_param": "follows from FP16.level O2",
          "exp_avg_force_fp32": "moments follow the master weights"}


@OPTIMIZERS.register("Momentum", context=CONTEXT, legacy=LEGACY)
def momentum_sgd(parameters, learning_rate: float = 0.0, momentum: float = 0.9, weight_decay: float = 0.0,
                 use_nesterov: bool = False, master_weights: bool = False):
    """SGD: v <- momentum v + (g + weight_decay p); p <- p - lr v (torch's form)."""
    return paddle.optimizer.Momentum(learning_rate, momentum, parameters, use_nesterov=use_nesterov,
                                     weight_decay=weight_decay or None, multi_precision=master_weights)


@OPTIMIZERS.register("AdamW", context=CONTEXT, legacy=LEGACY)
def adamw(parameters, learning_rate: float = 0.0, betas: List[float] = (0.9, 0.999), eps: float = 1e-8,
          weight_decay: float = 0.01, master_weights: bool = False):
    """Adam with decoupled weight decay; weight_decay 0 is plain Adam."""
    return paddle.optimizer.AdamW(learning_rate, betas[0], betas[1], eps, parameters, weight_decay=weight_decay,
                                  multi_precision=master_weights)
