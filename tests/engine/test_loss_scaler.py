"""Loss scaling on an fp32 network, where every number can be compared with a run that is not scaled."""
import numpy as np
import paddle
import pytest

from passl.config.schema import GRAD_SCALER
from passl.distributed import JointFailure
from passl.engine.precision import LossScaler


def parameter(gradient):
    value = paddle.create_parameter([len(gradient)], "float32")
    (value * paddle.to_tensor(gradient, "float32")).sum().backward()
    return value


def test_gradients_are_divided_by_the_scale_they_were_multiplied_with():
    scaler = LossScaler(init_loss_scaling=1024.0)
    weight = paddle.create_parameter([3], "float32")
    scaler.scale_loss((weight * paddle.to_tensor([1.0, -2.0, 0.5])).sum()).backward()
    np.testing.assert_array_equal(weight.grad.numpy(), [1024.0, -2048.0, 512.0])
    assert scaler.unscale([weight])
    np.testing.assert_array_equal(weight.grad.numpy(), [1.0, -2.0, 0.5])


def test_a_half_precision_loss_is_widened_before_it_is_scaled():
    scaled = LossScaler().scale_loss(paddle.to_tensor(8.0, "float16"))
    assert scaled.dtype == paddle.float32 and float(scaled) == 8 * 65536


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("place", [0, 2])
def test_one_bad_number_in_any_gradient_is_found(bad, place):
    weights = [parameter([1.0, 2.0]), parameter([3.0]), parameter([4.0, 5.0])]
    assert LossScaler().unscale(weights)
    weights[place] = parameter([1.0, bad])
    assert not LossScaler().unscale(weights)


def test_infinities_of_both_signs_do_not_cancel():
    assert not LossScaler().unscale([parameter([np.inf, -np.inf])])


def test_gradients_that_no_step_uses_do_not_count():
    frozen = parameter([np.inf])
    frozen.stop_gradient = True
    assert LossScaler().unscale([frozen, paddle.create_parameter([2], "float32"), parameter([1.0])])


def test_the_default_rule_is_the_reference_one():
    """apex: 2^16 at first, halved by every overflow, doubled after 2000 clean steps, at most 2^24."""
    scaler = LossScaler()
    scaler.update(False)
    assert scaler.scale == 2.0 ** 15
    for _ in range(1999):
        scaler.update(True)
    scaler.update(False)
    assert scaler.scale == 2.0 ** 14
    for _ in range(1999):
        scaler.update(True)
    assert scaler.scale == 2.0 ** 14
    scaler.update(True)
    assert scaler.scale == 2.0 ** 15
    for _ in range(2000 * 12):
        scaler.update(True)
    assert scaler.scale == 2.0 ** 24


def test_schema_and_constructor_have_the_same_defaults():
    scaler = LossScaler(**{name: key.default for name, key in GRAD_SCALER.keys.items()})
    assert vars(scaler) == vars(LossScaler())


def test_passl_keys_change_the_rule():
    scaler = LossScaler(init_loss_scaling=1000.0, incr_ratio=3.0, decr_ratio=0.1, incr_every_n_steps=2,
                        decr_every_n_nan_or_inf=2, max_loss_scaling=5000.0)
    scales = []
    for finite in (False, True, False, False, True, True, True, False, True, True):
        scaler.update(finite)
        scales.append(round(scaler.scale))
    # Bad and good steps are counted in a row: the first bad one is forgotten at the good one after it.
    assert scales == [1000, 1000, 1000, 100, 100, 300, 300, 300, 300, 900]
    for _ in range(4):
        scaler.update(True)
    assert scaler.scale == 5000.0


def test_a_static_scale_stays():
    scaler = LossScaler(init_loss_scaling=64.0, use_dynamic_loss_scaling=False)
    for finite in [False] * 30 + [True] * 3000:
        scaler.update(finite)
    scaler.load_state_dict(LossScaler().state_dict())
    assert scaler.scale == 64.0


def test_state_survives_json_and_continues_the_count():
    import json

    straight, first = LossScaler(incr_every_n_steps=3), LossScaler(incr_every_n_steps=3)
    for scaler in (straight, first):
        for finite in (False, True, True):
            scaler.update(finite)
    resumed = LossScaler(incr_every_n_steps=3)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for scaler in (straight, resumed):
        scaler.update(True)
    assert resumed.state_dict() == straight.state_dict() == {"scale": 65536.0, "incr_count": 0, "decr_count": 0}
    lower = LossScaler(init_loss_scaling=1024.0, max_loss_scaling=4096.0)
    lower.load_state_dict(straight.state_dict())
    assert lower.scale == 4096.0


def test_gradients_that_no_scale_helps_end_the_run():
    scaler = LossScaler()
    for _ in range(24):
        scaler.update(False)
    assert scaler.scale == 2.0 ** -8
    with pytest.raises(JointFailure, match="even at a loss scale of 0.00390625.*learning rate.*FP16.level=O0"):
        scaler.update(False)


def test_a_first_scale_above_the_ceiling_is_refused():
    with pytest.raises(ValueError, match="init_loss_scaling 2000 is above max_loss_scaling 1000"):
        LossScaler(init_loss_scaling=2000.0, max_loss_scaling=1000.0)
