import copy
import math
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from passl.config import Config, load_config
from passl.config.fields import Section
from passl.config.schema import SCHEMA

FILE = """
Global:
  epochs: 100
  flags: {}
Loss:
  Train:
    - CELoss:
        weight: 1.0
    - [1,
       2]
"""


@pytest.fixture
def config(write):
    return load_config(write("a.yaml", FILE.lstrip()))


def test_attribute_and_item_access(config):
    assert config.Global.epochs == config["Global"]["epochs"] == config.get_path("Global.epochs") == 100
    assert config.Loss.Train[0].CELoss.weight == config.get_path("Loss.Train.0.CELoss.weight") == 1.0
    assert config.get_path("Loss.Train.7.CELoss", "none") == "none" and config.get_path("Global.epochs.x") is None


def test_missing_key_names_the_nearest(config):
    text = r"no configuration key 'epoch' here \(did you mean 'epochs'\?\); there are: epochs, flags"
    with pytest.raises(AttributeError, match=text):
        _ = config.Global.epoch
    with pytest.raises(KeyError, match=text):
        _ = config.Global["epoch"]
    assert not hasattr(config.Global, "epoch") and "epoch" not in config.Global and config.Global.get("epoch") is None


def test_where(config):
    assert [config.where(path) for path in (
        "Global", "Global.epochs", "Loss.Train", "Loss.Train.0", "Loss.Train.0.CELoss.weight", "Loss.Train.1.0",
        "Loss.Train.1.1", "Global.missing", "Missing")] == [
        "a.yaml:1", "a.yaml:2", "a.yaml:5", "a.yaml:6", "a.yaml:7", "a.yaml:8", "a.yaml:9", "a.yaml:1", "default"]
    assert config.Loss.where("Train.1.1") == "a.yaml:9"


def test_assignment_wraps_and_forgets_the_old_place(config):
    config.Loss.Train = [{"MSE": {"weight": 2}}]
    config["New"] = {"a": {"b": 1}}
    assert config.Loss.Train[0].MSE.weight == 2 and config.New.a.b == 1
    assert config.where("Loss.Train.0") == config.where("New.a.b") == "set in code"
    config.Global.update(epochs=5)
    assert config.where("Global.epochs") == "set in code" and config.Global.setdefault("seed", 3) == 3
    del config.Global["epochs"]
    assert config.where("Global.epochs") == "a.yaml:1"


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))])
def test_deep_copies_are_equal_and_apart(config, duplicate):
    other = duplicate(config)
    assert other == config and type(other.Loss.Train[0]) is Config and other.where("Loss.Train.1.1") == "a.yaml:9"
    other.Loss.Train[0].CELoss.weight = 5
    assert config.Loss.Train[0].CELoss.weight == 1.0 and config.where("Loss.Train.0.CELoss.weight") == "a.yaml:7"


def test_shallow_copy_is_a_config_with_places(config):
    other = config.copy()
    other.Global = None
    assert config.Global.epochs == 100 and type(other) is Config and config.where("Global") == "a.yaml:1"


def test_plain_has_no_config_inside(config):
    plain = config.plain()
    assert type(plain) is dict and type(plain["Loss"]["Train"][0]) is dict and plain == config


def test_yaml_text():
    text = Config({"b": {"rate": 1e-6, "shape": [None, 3], "text": "1e-6", "none": "None", "on": "yes",
                         "pair": "(1, 2)"},
                   "a": [{"Resize": {"size": 256}}, {"ToTensor": {}}]}).to_yaml()
    assert text == ("b:\n  rate: 1.0e-06\n  shape: [null, 3]\n  text: '1e-6'\n  none: 'None'\n  'on': 'yes'\n"
                    "  pair: '(1, 2)'\na:\n  - Resize:\n      size: 256\n  - ToTensor: {}\n")


def test_save_makes_folders_and_leaves_nothing_else(tmp_path):
    Config({"a": 1}).save(tmp_path / "x" / "y" / "config.yaml")
    assert [path.name for path in (tmp_path / "x" / "y").iterdir()] == ["config.yaml"]
    assert load_config(tmp_path / "x" / "y" / "config.yaml") == {"a": 1}


TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=12) | st.sampled_from(
    ["1e-6", "None", "~", "true", "yes", "1/2", "(1, 2)", "[1]", "0x1f", "a: b", "# x", " x ", "x\ny", "<<", "'", "&a",
     "!t"])
KEYS = TEXT.filter(lambda key: key not in ("_base_", "_delete_"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12)


@settings(max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_saved_and_loaded_is_equal(tmp_path, values):
    Config(values).save(tmp_path / "config.yaml")
    loaded = load_config(tmp_path / "config.yaml")
    assert loaded.plain() == values
    assert repr(loaded.plain()) == repr(values)  # the types too, and -0.0


def test_nan_survives(tmp_path):
    Config({"a": math.nan}).save(tmp_path / "config.yaml")
    assert math.isnan(load_config(tmp_path / "config.yaml").a)


def test_no_schema_key_hides_behind_a_method():
    def names(section):
        for key in section.keys.values():
            yield key.name
            if isinstance(key.type, Section):
                yield from names(key.type)

    assert [name for name in names(SCHEMA) if hasattr(Config, name)] == []
