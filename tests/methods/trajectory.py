"""Runs SwAV on the reference's deterministic inputs, step by step, through the same calls the trainer makes."""
import numpy as np
import paddle

from passl.methods.base import RunFacts
from passl.methods.swav import SwAV
from passl.optim.groups import GroupedOptimizer
from tests.golden import formula
from tests.golden.networks import fill, network, torch_name
from tests.golden.sensitivity import bounds


class UnbiasedVariance:
    """Follows every batch norm and keeps the running variance as PyTorch would: with the unbiased batch variance.

    Paddle's kernel stores v <- m v + (1 - m) b with the biased batch variance b; solving for b and multiplying it by
    n/(n-1), n the values per channel of that call, gives PyTorch's number exactly.
    """

    def __init__(self, layer):
        self.values = {}
        for name, norm in layer.named_sublayers():
            if isinstance(norm, paddle.nn.layer.norm._BatchNormBase):
                self.values[name] = norm._variance.numpy().copy()
                before = {}
                norm.register_forward_pre_hook(
                    lambda n, inputs, before=before: before.update(v=n._variance.numpy().copy()))
                norm.register_forward_post_hook(
                    lambda n, inputs, output, name=name, before=before: self._follow(name, n, inputs[0], before["v"]))

    def _follow(self, name, norm, inputs, before):
        momentum = norm._momentum
        count = int(np.prod(inputs.shape)) // inputs.shape[1]
        biased = (norm._variance.numpy() - momentum * before) / (1 - momentum)
        self.values[name] = momentum * self.values[name] + (1 - momentum) * biased * count / (count - 1)


def build(case, world_size=1):
    method = SwAV.__new__(SwAV)
    SwAV.__init__(method, {"type": "resnet18", "output_dim": case["feat_dim"], "nmb_prototypes": case["K"]},
                  temperature=case.get("temperature", 0.1), epsilon=case.get("epsilon", 0.05),
                  queue_length=case["queue_length"], epoch_queue_starts=case.get("epoch_queue_starts", 0),
                  freeze_prototypes_niters=case["freeze"], run=RunFacts(batch_size=case["bs"], world_size=world_size))
    method.model.res_model = fill(network(case["block"], case["layers"], case["hidden"], case["feat_dim"], case["K"]),
                                  case["seed"])
    return method


def run(case, dtype, rank=0, world_size=1, wrap=lambda model: model):
    """Returns (losses of this rank, {torch name: final array}, method)."""
    paddle.set_default_dtype(dtype)
    try:
        method = build(case, world_size)
    finally:
        paddle.set_default_dtype("float32")
    unbiased = UnbiasedVariance(method.model)
    method.distribute(wrap)
    method.train()
    optimizer = GroupedOptimizer(
        {"name": "MomentumLARC", "momentum": 0.9, "weight_decay": case["wd"],
         "lr": {"name": "Constant", "learning_rate": 0.0}}, method.trainable_parameters(), 1, 1)
    losses = []
    for step in range(case["steps"]):
        if step % case["steps_per_epoch"] == 0:
            method.on_epoch_start(step // case["steps_per_epoch"])
        crops = [paddle.to_tensor(crop.astype(dtype))
                 for crop in formula.crops(step, rank, case["bs"], case["crops"], case["seed"])]
        for inner in optimizer.optimizers:
            inner.set_lr(case["lr"][step])
        batch = {"crops": crops}
        loss, *_ = method.training_step(batch, method.plan([batch])[0])
        loss.backward()
        method.after_backward(step)
        for inner in optimizer.optimizers:
            inner.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    final = {torch_name(name): value.numpy() for name, value in method.model.res_model.state_dict().items()}
    for name, value in unbiased.values.items():
        final[torch_name(name.replace("res_model.", "") + "._variance")] = value
    return losses, final, method


def check_losses(found, expected, name):
    """Every step's loss against the golden file `name`: in float64 to 1e-7, in float32 as far as rounding lets it."""
    bound = 1e-7 if "fp64" in name else bounds(name)[0]
    np.testing.assert_allclose((np.array(found) - expected) / bound, 0, atol=1, err_msg=f"{name}, parts of the bound")


def check_final(final, golden, name):
    """Norm and mean of every final tensor; Paddle passes batch norm its momentum as a 32-bit number."""
    rtol = 1e-6 if "fp64" in name else bounds(name)[1]
    for tensor, (norm, mean) in golden["final_norm_mean"].items():
        if tensor.endswith("num_batches_tracked"):
            continue
        np.testing.assert_allclose(np.linalg.norm(final[tensor]), norm, rtol=rtol, err_msg=tensor)
        np.testing.assert_allclose(final[tensor].mean(), mean, rtol=rtol, atol=rtol * norm, err_msg=tensor)
