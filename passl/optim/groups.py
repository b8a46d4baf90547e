"""Parameter groups: one optimizer and one schedule for every group a config names, and one for the rest."""
from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np
import paddle

from passl.errors import UserError
from passl.optim.gradients import clip_by_global_norm, norms, with_gradient
from passl.optim.optimizers import MomentumLARC
from passl.registry import OPTIMIZERS, SCHEDULES


class GroupedOptimizer:
    """Steps every group's optimizer at its own learning rate.

    section: the Optimizer section of a checked config; `param_groups` is a list of mappings with `name` (a regular
    expression matched from the start of the structured parameter name) and the keys that differ (`lr`,
    `weight_decay`, ...). The first matching group wins; the rest forms the group "default".
    named_parameters: (structured name, parameter) pairs.
    """

    def __init__(self, section: Mapping[str, Any], named_parameters: Sequence[Tuple[str, paddle.Tensor]], epochs: int,
                 iterations_per_epoch: int):
        common = dict(section)
        rules = [dict(rule) for rule in common.pop("param_groups", None) or []]
        self.clip = common.pop("grad_clip", None)
        if self.clip and not self.clip["clip_norm"] > 0:
            raise UserError(f"Optimizer.grad_clip.clip_norm is {self.clip['clip_norm']}, which would leave no "
                            "gradient; leave grad_clip out for no clipping")
        self.groups: List[Tuple[str, List[Tuple[str, paddle.Tensor]], Any, Any]] = []
        self._loaded: Dict[str, Dict[str, paddle.Tensor]] = {}  # of parameters that have not been stepped since
        remaining = list(named_parameters)
        for rule in rules + [{"name": None}]:
            name = rule.pop("name")
            mine = [item for item in remaining if name is None or matches(name, item[0])]
            remaining = [item for item in remaining if all(item[1] is not taken[1] for taken in mine)]
            if not mine:
                if name is None:
                    continue
                raise UserError(f"Optimizer.param_groups: no parameter's name starts with '{name}'; names look like "
                                f"'{named_parameters[0][0]}' and '{named_parameters[-1][0]}'")
            settings = {**common, **rule}
            schedule = SCHEDULES.build({**settings.pop("lr")}, epochs=epochs, iterations_per_epoch=iterations_per_epoch)
            optimizer = OPTIMIZERS.build(settings, parameters=[parameter for _, parameter in mine],
                                         learning_rate=schedule(0))
            self.groups.append((name or "default", mine, optimizer, schedule))

    @property
    def optimizers(self) -> List[paddle.optimizer.Optimizer]:
        return [optimizer for _, _, optimizer, _ in self.groups]

    @property
    def parameters(self) -> List[paddle.Tensor]:
        """The parameters of all groups."""
        return [parameter for _, named, _, _ in self.groups for _, parameter in named]

    def set_step(self, step: int) -> Dict[str, float]:
        """Set the learning rate of optimizer step `step` in every group; returns group name -> rate."""
        rates = {}
        for name, _, optimizer, schedule in self.groups:
            rates[name] = schedule(step)
            optimizer.set_lr(rates[name])
        return rates

    def clip_gradients(self) -> None:
        """Apply Optimizer.grad_clip over the parameters of all groups; call after unscaling."""
        if self.clip:
            clip_by_global_norm(self.parameters, self.clip["clip_norm"])

    def gradients_finite(self) -> bool:
        """Whether no gradient is NaN, infinite, or so large that its square is; call between backward and the step.

        The gradients must be those the step uses: reduced over ranks, hence equal on all of them and so is the answer,
        and not scaled. Costs one wait for the device for each group, which LARC saves in its step.
        """
        finite = True
        for optimizer in self.optimizers:
            if isinstance(optimizer, MomentumLARC) and not self.clip:  # clipping would change what it has measured
                finite = optimizer.measure() and finite
            else:
                gradients = [parameter.grad for parameter in with_gradient(optimizer._parameter_list)]
                finite = bool(np.isfinite(norms(gradients)).all()) and finite
        return finite

    def named_parameters(self) -> List[Tuple[str, paddle.Tensor]]:
        """(structured name, parameter) of everything a step may change."""
        return [item for _, named, _, _ in self.groups for item in named]

    def clear_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.clear_grad(set_to_zero=False)

    # Paddle keys optimizer state by generated parameter names (linear_0.w_0_velocity_0), which change with the order
    # layers are created in; the checkpoint keys it by structured name and accumulator.
    def state_dict(self) -> Dict[str, Dict[str, np.ndarray]]:
        """{structured parameter name: {accumulator: array}} over all groups."""
        # Paddle creates accumulators at a parameter's first step; what was loaded before counts until then.
        state: Dict[str, Dict[str, np.ndarray]] = {}
        for _, named, optimizer, _ in self.groups:
            structured = {parameter.name: name for name, parameter in named}
            flat = dict(optimizer.state_dict())
            for other in ("master_weights", "LR_Scheduler"):  # empty: weights are fp32, rates are set by `set_step`
                flat.pop(other, None)
            for key, value in flat.items():
                owner = owner_of(key, structured)
                state.setdefault(structured[owner], {})[key[len(owner) + 1:]] = np.asarray(value)
        self._loaded = {name: accumulators for name, accumulators in self._loaded.items()
                        if not accumulators.keys() <= state.get(name, {}).keys()}
        for name, accumulators in self._loaded.items():
            state[name] = {**{key: np.asarray(value) for key, value in accumulators.items()}, **state.get(name, {})}
        return state

    def set_state_dict(self, state: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        known = {name for name, _ in self.named_parameters()}
        unknown = sorted(set(state) - known)
        if unknown:
            raise UserError(f"the optimizer state belongs to another model: it has {unknown[0]}"
                            f"{f' and {len(unknown) - 1} more' if len(unknown) > 1 else ''}, which this model lacks")
        # Copies: the arrays are views of a mapped file, which may be gone before Paddle has made its accumulators.
        self._loaded = {name: {accumulator: paddle.to_tensor(value) for accumulator, value in accumulators.items()}
                        for name, accumulators in state.items()}
        for _, named, optimizer, _ in self.groups:
            flat = {f"{parameter.name}_{accumulator}": value for name, parameter in named
                    for accumulator, value in self._loaded.get(name, {}).items()}
            if flat:
                optimizer.set_state_dict(flat)


def matches(pattern: str, name: str) -> bool:
    """Whether the regular expression of a param_groups entry matches a parameter's name from its start."""
    try:
        return re.match(pattern, name) is not None
    except re.error as error:
        raise UserError(f"Optimizer.param_groups: '{pattern}' is no regular expression ({error}); a plain beginning "
                        f"of a parameter's name will do, such as '{name.split('.')[0]}'") from None


def owner_of(key: str, structured: Mapping[str, str]) -> str:
    """The generated parameter name that an accumulator's key starts with (the longest, names may share prefixes)."""
    return max((name for name in structured if key.startswith(name + "_")), key=len)
