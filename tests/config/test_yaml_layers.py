import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passl.config import ConfigError, load_config
from passl.config.yaml_text import parse_yaml


def message(*arguments):
    with pytest.raises(ConfigError) as caught:
        load_config(*arguments)
    return str(caught.value)


def test_scalars_are_typed_everywhere_and_quoted_ones_stay_text(write):
    config = load_config(write("a.yaml", """
        A: {rate: 1e-6, none: None, scale: 1.0/255.0, flag: true, switch: on}
        B:
          - lr: 1e-3
          - [None, ~, 1e2, yes]
          - betas: (0.9, 0.999)
        C: {rate: "1e-6", none: 'None', number: !!str 5}
    """))
    assert config == {"A": {"rate": 1e-6, "none": None, "scale": 1 / 255, "flag": True, "switch": "on"},
                      "B": [{"lr": 1e-3}, [None, None, 100.0, "yes"], {"betas": [0.9, 0.999]}],
                      "C": {"rate": "1e-6", "none": "None", "number": "5"}}


def test_keys_are_text(write):
    assert load_config(write("a.yaml", "{1: a, null: b, true: c}")) == {"1": "a", "null": "b", "true": "c"}


def test_anchor_alias_and_merge_key(write):
    config = load_config(write("a.yaml", """
        base: &base {a: 1, b: 2}
        one:
          <<: *base
          b: 3
        two: *base
    """))
    assert config.one == {"a": 1, "b": 3} and config.two == {"a": 1, "b": 2}
    assert config.where("one.a") == "a.yaml:1" and config.where("one.b") == "a.yaml:4"
    config.two.a = 9
    assert config.base.a == 1


def test_layers_merge_in_order_relative_to_the_naming_file(write):
    write("base/first.yaml", "{Global: {epochs: 1, seed: 1, flags: {x: 1}}, Loss: [1, 2, 3]}")
    write("base/second.yaml", "{Global: {epochs: 2, flags: {y: 2}}}")
    write("tasks/middle.yaml", "_base_: [../base/first.yaml, ../base/second.yaml]\nGlobal: {output_dir: m}\n")
    config = load_config(write("tasks/deep/top.yaml", "_base_: ../middle.yaml\nGlobal:\n  seed: 3\nLoss: [4]\n"))
    assert config == {"Global": {"epochs": 2, "seed": 3, "flags": {"x": 1, "y": 2}, "output_dir": "m"}, "Loss": [4]}
    assert config.where("Global.epochs") == "base/second.yaml:1"
    assert config.where("Global.seed") == "tasks/deep/top.yaml:3"
    assert config.where("Global") == "tasks/deep/top.yaml:2"


def test_null_and_delete_mark_drop_what_a_layer_set(write):
    write("base.yaml", "{EMA: {decay: 0.9}, Optimizer: {name: MomentumLARC, clip: True}}")
    config = load_config(write("a.yaml", "_base_: base.yaml\nEMA:\nOptimizer: {_delete_: True, name: AdamW}\n"))
    assert config == {"EMA": None, "Optimizer": {"name": "AdamW"}}


@pytest.mark.parametrize("overrides", [
    ["Optimizer={_delete_: True, name: AdamW}"], ["Optimizer._delete_=True", "Optimizer.name=AdamW"],
    ["Optimizer={name: AdamW}"], ["New.list=[{_delete_: True, a: {_delete_: True}}]", "Optimizer={name: AdamW}"]])
def test_delete_mark_in_an_override_starts_afresh_and_leaves_nothing(write, overrides):
    path = write("a.yaml", "Optimizer: {name: MomentumLARC, clip: True}")
    config = load_config(path, overrides)
    assert config.Optimizer == {"name": "AdamW"} and "_delete_" not in str(config.plain())
    assert config.get("New", {"list": [{"a": {}}]}) == {"list": [{"a": {}}]}
    assert config.where("Optimizer.name") == f"-o {overrides[-1]}"


@pytest.mark.parametrize("override", ["Optimizer={_delete_: False, name: AdamW}", "Optimizer._delete_=False",
                                      "Optimizer._delete_=0"])
def test_delete_mark_that_does_not_delete_is_refused(write, override):
    assert f"-o {override}: " in message(write("a.yaml", "Optimizer: {clip: True}"), [override])


def test_the_same_layer_by_two_ways_is_no_cycle(write):
    write("root.yaml", "a: 1")
    write("left.yaml", "_base_: root.yaml\nb: 2")
    write("right.yaml", "_base_: root.yaml\nc: 3")
    assert load_config(write("top.yaml", "_base_: [left.yaml, right.yaml]")) == {"a": 1, "b": 2, "c": 3}


def test_cycle_names_the_chain(write):
    write("b.yaml", "_base_: sub/c.yaml")
    write("sub/c.yaml", "_base_: ../a.yaml")
    assert message(write("a.yaml", "_base_: b.yaml")) == (
        "a.yaml -> b.yaml -> sub/c.yaml -> a.yaml: these _base_ layers form a cycle")


def test_missing_layer_names_the_chain(write):
    write("base/swav.yaml", "a: 1")
    write("b.yaml", "_base_: base/swaw.yaml")
    assert message(write("a.yaml", "_base_: b.yaml")) == (
        "base/swaw.yaml: no such configuration file (did you mean 'swav.yaml'?) "
        "(layers: a.yaml -> b.yaml -> base/swaw.yaml)")


@pytest.mark.parametrize("value", ["3", "[a.yaml, 3]", "{a: b}"])
def test_base_of_wrong_type(write, value):
    assert message(write("x.yaml", f"a: 1\n_base_: {value}\n")) == "x.yaml:2: _base_ must be a path or a list of paths"


def test_missing_file_names_the_nearest(write):
    write("swav.yaml", "a: 1")
    assert message("swav.yml") == "swav.yml: no such configuration file (did you mean 'swav.yaml'?)"
    assert message("nowhere/swav.yaml") == "nowhere/swav.yaml: no such configuration file, nor the folder 'nowhere'"


def test_folder_instead_of_file(tmp_path):
    assert message(tmp_path) == f"{tmp_path}: this is a folder, not a YAML file"


@pytest.mark.parametrize("text, expected", [
    ("Global:\n  a: 1\n b: 2\n",
     "x.yaml:3: YAML syntax: expected <block end>, but found '<block mapping start>' (column 2)"),
    ("a: [1, 2\nb: 3\n", "x.yaml:2: YAML syntax: expected ',' or ']', but got ':' (column 2)"),
    ("a:\n\t- 1\n", "x.yaml:2: YAML syntax: found character '\\t' that cannot start any token (column 1)"),
    ("a: *missing\n", "x.yaml:1: YAML syntax: found undefined alias 'missing' (column 4)"),
    ("a: 1\n---\nb: 2\n", "x.yaml:2: YAML syntax: but found another document (column 1)"),
    ("- 1\n", "x.yaml:1: the top level must be sections such as 'Global:', not a sequence"),
    ("a: 1\nb: !!python/name:os.system ''\n",
     "x.yaml:2: the YAML tag 'tag:yaml.org,2002:python/name:os.system' is not supported"),
    ("a: !!python/object/apply:os.getcwd []\n",
     "x.yaml:1: the YAML tag 'tag:yaml.org,2002:python/object/apply:os.getcwd' is not supported"),
    ("? [1, 2]\n: 3\n", "x.yaml:1: a key must be a single word, not a sequence"),
    ("a: &x\n  b: *x\n", "x.yaml:1: this anchor contains itself"),
    ("a:\n  <<: 3\n", "x.yaml:2: '<<' takes a mapping or a list of mappings"),
])
def test_bad_text_names_file_and_line(write, text, expected):
    assert message(write("x.yaml", text)) == expected


def test_not_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_bytes(b"a: \xff\xfe\n")
    assert message("x.yaml") == "x.yaml: not UTF-8 text (invalid start byte at byte 3)"


def test_duplicate_keys_name_both_lines_and_are_all_reported(write):
    assert message(write("x.yaml", "Global:\n  seed: 1\n  epochs: 2\n  seed: 3\nLoss: 1\nLoss: 2\n")) == (
        "2 problems in the configuration:\n"
        "  x.yaml:4: duplicate key 'seed', first given at x.yaml:2\n"
        "  x.yaml:6: duplicate key 'Loss', first given at x.yaml:5")


def test_alias_bomb_is_refused(write):
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join(['*a%d' % (n - 1)] * 10)}]" for n in range(1, 9)]
    assert "more than 200000 values; are aliases nested in aliases?" in message(write("x.yaml", "\n".join(levels)))


def test_endless_nesting_is_refused(write):
    assert message(write("x.yaml", "a: " + "[" * 5000)) == "x.yaml: nested too deeply"
    assert message(write("x.yaml", "a: " + "[" * 60 + "]" * 60)) == "x.yaml:1: nested too deeply"


MARKS = st.sampled_from(["a", "b: ", "\n", "  ", "- ", "[", "]", "{", "}", ", ", "&x ", "*x", "!!str ", "<<: ", "? ",
                         "'", '"', "|\n",
                         "# ", "1/0", "9" * 5000, "\t", "%YAML 1.1\n", "---\n", "(", ")", "\x00", "\ufeff", "_base_: "])


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(MARKS, max_size=15).map("".join) | st.text(max_size=30))
def test_any_text_loads_or_is_refused_cleanly(text):
    try:
        config = parse_yaml(text, "x.yaml")
    except ConfigError as error:
        assert str(error).startswith(("x.yaml:", "2 problems", "3 problems", "4 problems", "5 problems"))
    else:
        assert parse_yaml(config.to_yaml(), "again.yaml") == config


def test_empty_file_and_byte_order_mark(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_config(tmp_path / "empty.yaml") == {}
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert load_config(tmp_path / "bom.yaml") == {"a": 1}
