"""MomentumLARC: SGD with momentum under layer-wise adaptive rate control, as NVIDIA apex's LARC around torch's SGD."""
from __future__ import annotations

import numpy as np
import paddle

from passl.registry import OPTIMIZERS


@OPTIMIZERS.register("MomentumLARC", context=("parameters", "learning_rate"),
                     legacy={"tensor_fusion": "gradients are reduced in buckets already",
                             "use_master_param": "weights are fp32 at every FP16.level"})
class MomentumLARC(paddle.optimizer.Momentum):
    """Per tensor p with gradient g: g <- eta (g + wd p), eta = trust |p| / (|g| + wd |p| + 1e-8); then momentum SGD.

    Where |p| or |g| is zero (every batch-norm bias at its first step), g is left as it is, without weight decay.
    Parameters without gradient are skipped altogether. The trust ratio is inside the momentum buffer, the learning
    rate outside. No tensor is excluded: norms and biases are scaled too. (LARC: You et al. 2017, arXiv 1708.03888.)

    clip: use min(eta/lr, 1) instead of eta, i.e. LARC's clipping mode; False in every published SwAV run.
    """

    def __init__(self, parameters, learning_rate: float = 0.0, momentum: float = 0.9, weight_decay: float = 0.0,
                 trust_coefficient: float = 0.001, clip: bool = False, epsilon: float = 1e-8):
        super().__init__(learning_rate=learning_rate, momentum=momentum, parameters=parameters)
        self._decay = weight_decay
        self._trust = trust_coefficient
        self._clip = clip
        self._epsilon = epsilon

    @paddle.no_grad()
    def step(self):
        parameters = [parameter for parameter in self._parameter_list
                      if parameter.grad is not None and not parameter.stop_gradient]
        if parameters:
            # All norms are fetched at once: one wait for the device a step, and plain numbers from here on.
            squares = paddle.stack([square_sum(tensor) for parameter in parameters
                                    for tensor in (parameter, parameter.grad)]).numpy()
            for parameter, (weight, gradient) in zip(parameters, np.sqrt(squares.astype(np.float64)).reshape(-1, 2)):
                self._scale_gradient(parameter, float(weight), float(gradient))
        super().step()

    def _scale_gradient(self, parameter, weight_norm: float, gradient_norm: float) -> None:
        if weight_norm == 0 or gradient_norm == 0:
            return
        rate = self._trust * weight_norm / (gradient_norm + self._decay * weight_norm + self._epsilon)
        if self._clip:
            rate = min(rate / self.get_lr(), 1.0)
        parameter.grad.scale_(rate)
        if self._decay:
            parameter.grad.add_(parameter.detach().scale(rate * self._decay))


def square_sum(tensor: paddle.Tensor) -> paddle.Tensor:
    """Sum of squares as a scalar of at least fp32 (a dot product: ten times faster than Paddle's norm on a CPU)."""
    flat = tensor.detach().flatten()
    if flat.dtype in (paddle.float16, paddle.bfloat16):
        flat = flat.astype(paddle.float32)
    return paddle.dot(flat, flat)
