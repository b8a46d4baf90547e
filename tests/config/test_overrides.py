import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passl.config import Config, ConfigError, load_config
from passl.config.overrides import apply_override

BASE = """
Global:
  epochs: 100
Loss:
  Train:
    - CELoss: {weight: 1.0}
    - [12, [16, 18]]
"""


@pytest.mark.parametrize("text, value", [
    ("200", 200), ("1e-6", 1e-6), ("true", True), ("null", None), ("None", None), ("max", "max"), ("", None),
    ("./a=b", "./a=b"), ("1.0/4", 0.25), ("(0.9, 0.999)", [0.9, 0.999]), ("[1e-3, None, [x]]", [1e-3, None, ["x"]]),
    ("{name: X, lr: 1e-2}", {"name": "X", "lr": 1e-2}), ("'7'", "7"), ('"None"', "None"), ("a: b # c", "a: b # c"),
    ("__import__('os').getcwd()", "__import__('os').getcwd()"),
])
def test_value(text, value):
    config = Config({"Global": {"epochs": 100}})
    apply_override(config, f"Global.epochs={text}")
    assert config.Global.epochs == value and type(config.Global.epochs) is type(Config({"x": value}).x)


def test_lists_are_indexed_and_the_place_is_the_option(write):
    config = load_config(write("a.yaml", BASE), ["Loss.Train.0.CELoss.weight=2", "Loss.Train.1.1.0=17"])
    assert config.Loss.Train == [{"CELoss": {"weight": 2}}, [12, [17, 18]]]
    assert config.where("Loss.Train.0.CELoss.weight") == "-o Loss.Train.0.CELoss.weight=2"
    assert config.where("Loss.Train.1.1.0") == "-o Loss.Train.1.1.0=17"
    assert config.where("Loss.Train.1.1.1") == "a.yaml:6"


def test_sections_are_made_and_the_last_override_wins(write):
    config = load_config(write("a.yaml", BASE + "EMA:\n"),
                         ["FP16.GradScaler.incr_ratio=2", "EMA.decay=0.9", "EMA.decay=0.99"])
    assert config.FP16 == {"GradScaler": {"incr_ratio": 2}} and config.EMA == {"decay": 0.99}
    assert config.where("FP16") == "-o FP16.GradScaler.incr_ratio=2"


def test_a_mapping_value_knows_its_place(write):
    config = load_config(write("a.yaml", BASE), ["Optimizer={name: X, lr: {gamma: 2}}"])
    assert config.where("Optimizer.lr.gamma") == "-o Optimizer={name: X, lr: {gamma: 2}}"


@pytest.mark.parametrize("override, expected", [
    ("Global.epochs", "expected KEY=VALUE, for instance -o Global.epochs=100"),
    ("=3", "the key has an empty part; write it like Model.backbone.type"),
    ("Global..epochs=3", "the key has an empty part; write it like Model.backbone.type"),
    ("Loss.Train.2.CELoss=3", "index 2 is out of range, Loss.Train has 2 element(s)"),
    ("Loss.Train.-1=3", "Loss.Train is a list; expected an index from 0 to 1, got '-1'"),
    ("Loss.Train.CELoss.weight=3", "Loss.Train is a list; expected an index from 0 to 1, got 'CELoss'"),
    ("Loss.Train.1.1.2=3", "index 2 is out of range, Loss.Train.1.1 has 2 element(s)"),
    ("Global.epochs.x=3", "Global.epochs is 100 (a.yaml:3), nothing can be set below it"),
    ("Global.epochs=[1, 2",
     "the value is not valid YAML: expected ',' or ']', but got '<stream end>'; to pass text, quote it twice"),
    ("Global.epochs={a: 1, a: 2}", None),
])
def test_bad_override_names_the_option(write, override, expected):
    with pytest.raises(ConfigError) as caught:
        load_config(write("a.yaml", BASE.lstrip()), [override])
    assert str(caught.value).startswith(f"-o {override}: ")
    if expected:
        assert str(caught.value) == f"-o {override}: {expected}".replace("a.yaml:3", "a.yaml:2")
    else:
        assert "duplicate key 'a'" in str(caught.value)


@settings(max_examples=200, deadline=None, database=None)
@given(st.sampled_from(["A", "A.B", "A.0", "L.0", "L.1.B", ""]),
       st.text("ab01.=[]{}'\":, ()-/~\\\n#&*!", max_size=12))
def test_any_text_applies_or_is_refused_with_the_option_named(path, text):
    config = Config({"A": {"B": 1}, "L": [1, {"B": 2}]})
    try:
        apply_override(config, f"{path}={text}")
    except ConfigError as error:
        assert str(error).startswith((f"-o {path}={text}: ", "2 problems"))
    else:
        assert config.where(path) == f"-o {path}={text}" and config.get_path(path, "absent") != "absent"
