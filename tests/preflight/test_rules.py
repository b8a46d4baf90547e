"""What is said before the first step about rates of another batch and sections that say something else."""
import re

import pytest

from passl.config import check, load_config
from passl.methods.base import RunFacts
from passl.methods.swav import SwAV
from passl.preflight.facts import Facts
from passl.preflight.rules import idle_sections, learning_rate
from tests.engine.runs import trainer, write_config, write_images


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, write_images(tmp_path / "images"))


def said(rule, config, method, batch=4):
    """What a rule says of a run with this global batch."""
    return [str(finding) for finding in rule(Facts(config, method, RunFacts(batch_size=batch)))]


@pytest.mark.parametrize("rate, batch, here", [
    (0.6, 256, None), (4.8, 4096, None), (4.8, 2560, None), (4.8, 1536, None), (0.6, 128, None), (0.3, 256, None),
    (0.6, 64, "0.075 to 0.2"), (0.6, 8, "0.0094 to 0.025"), (4.8, 512, "0.6 to 1.6"), (0.1, 4096, "4.8 to 13")])
def test_rate_of_another_batch(config, rate, batch, here):
    checked = check(load_config(str(config), [f"Optimizer.lr.learning_rate={rate}"]))
    advice = said(learning_rate, checked, SwAV, batch)
    if here is None:
        assert advice == []
    else:
        message, = advice
        assert f"{rate:g} does not fit a global batch of {batch}: 0.3 to 0.8 was published" in message
        assert f"for 256, i.e. {here} here" in message
        assert "-o Global.lr_base_batch=256" in message


def test_a_base_batch_that_is_set_is_not_advised(config):
    checked = check(load_config(str(config), ["Optimizer.lr.learning_rate=10", "Global.lr_base_batch=256"]))
    message, = said(learning_rate, checked, SwAV, 256)
    assert message.endswith("(linear rule)")


def test_other_optimizers_have_other_rates(config):
    checked = check(load_config(str(config), ["Optimizer.name=Momentum"]))
    assert said(learning_rate, checked, SwAV, 8) == []


@pytest.mark.parametrize("override, text", [
    ("Model.name=swav_resnet50w4_pretrain", "swav_resnet50w4_pretrain speaks of resnet50w4 but .*type is resnet10"),
    ("Loss.Train=[{CELoss: {weight: 1.0}}]", "Loss has no effect: SwAV brings its own loss"),
    ("Metric.Train=[{TopkAcc: {topk: [1]}}]", "Metric has no effect"),
    ("Model.backbone.normalize=False", "normalize is not True: .* unit sphere")])
def test_parts_of_a_config_that_say_something_else(config, override, text):
    run = trainer(config, override)
    message, = said(idle_sections, run.config, run.method)
    assert re.search(text, message)


def test_nothing_is_said_about_a_sound_config(config):
    run = trainer(config, "Model.name=swav_resnet10_pretrain")
    assert said(idle_sections, run.config, run.method) == []
