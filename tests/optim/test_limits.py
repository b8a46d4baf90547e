"""Settings that no run can mean are refused with their key."""
import pytest

from passl.optim.groups import GroupedOptimizer
from tests.optim.test_groups import layer


@pytest.mark.parametrize("change, said", [
    ({"momentum": 5}, "Optimizer.momentum is 5; .* 0.9 is usual"),
    ({"weight_decay": -1}, "Optimizer.weight_decay is -1; it is at least 0"),
    ({"name": "Momentum", "momentum": -0.1}, "Optimizer.momentum is -0.1"),
    ({"name": "AdamW", "betas": [0.9, 1.0]}, r"Optimizer.betas is \[0.9, 1.0\]; expected two shares"),
    ({"lr": {"name": "TimmCosine", "learning_rate": -1}}, "Optimizer.lr.learning_rate is -1; .* at least 0"),
    ({"lr": {"name": "Constant", "learning_rate": -1}}, "Optimizer.lr.learning_rate is -1"),
    ({"grad_clip": {"name": "ClipGradByGlobalNorm", "clip_norm": 0}}, "clip_norm is 0, which would leave no gradient"),
    ({"param_groups": [{"name": "*bad"}]}, "'\\*bad' is no regular expression .* plain beginning .* such as '"),
])
def test_refused(change, said):
    section = {"name": "MomentumLARC", "lr": {"name": "Constant", "learning_rate": 0.1}, **change}
    with pytest.raises(ValueError, match=said):
        GroupedOptimizer(section, list(layer().named_parameters()), epochs=2, iterations_per_epoch=3)
