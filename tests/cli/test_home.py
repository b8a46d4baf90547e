"""`~` is the user's home on every path of every command and of every configuration key."""
from __future__ import annotations

import argparse
import importlib

import pytest

from passl.cli.main import VERBS
from passl.config import check, load_config
from passl.config.schema import SCHEMA
from passl.data.sources import find_image_files
from passl.errors import DataError, UserError
from passl.registry import DATASETS
from tests.data.shared import touch

PATHS = {"FILE", "FOLDER", "PREFIX", "MODEL", "IN", "OUT", "IMAGES"}  # what paths are called in the help
PATH_KEYS = ("dir", "root", "path", "file_name", "checkpoint", "model")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def parser_of(verb, monkeypatch):
    """The parser that a command makes."""
    made = []

    def stop(self, *arguments, **options):
        made.append(self)
        raise SystemExit(0)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(SystemExit):
        importlib.import_module(VERBS[verb][0]).main([])
    return made[0]


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "list-models"])
def test_every_path_of_every_command(verb, monkeypatch, home):
    actions = [action for action in parser_of(verb, monkeypatch)._actions if action.metavar in PATHS]
    assert actions
    for action in actions:
        assert action.type is not None and action.type("~/x") == f"{home}/x", (verb, action.dest)


def test_every_path_of_the_fixed_keys(home):
    section = SCHEMA.keys["Global"].type
    names = [name for name, key in section.keys.items() if name.endswith(PATH_KEYS) and "str" in str(key.type)]
    assert {"output_dir", "checkpoint", "pretrained_model"} <= set(names)
    for name in names:
        assert section.keys[name].convert("~/x") == f"{home}/x"
        assert section.keys[name].convert(None) is None


def test_every_path_of_the_data_sets(home):
    """A path that does not exist is named as it was looked for."""
    keys = set()
    for name in DATASETS.names():
        parameters = [key for key in DATASETS.parameters(name) if key.endswith(PATH_KEYS)]
        keys |= {(name, key) for key in parameters}
        for wrong in parameters:
            touch(home, "images/ant/ant_1.jpg")
            (home / "list.txt").write_text("images/ant/ant_1.jpg 0\n")
            (home / "few.txt").write_text("ant_1.jpg\n")
            right = {"root": "~/images", "image_root": "~/", "cls_label_path": "~/list.txt",
                     "txt_file_name": "~/few.txt"}
            crops = dict(size_crops=[8], num_crops=[2], min_scale_crops=[0.5], max_scale_crops=[1.0])
            given = {key: right[key] for key in parameters}
            more = crops if name == "SwAVMultiCropDataset" else {}
            dataset = DATASETS.build({"name": name, **given, **more}, seed=0)
            assert dataset.samples.path(0).startswith(f"{home}/")
            with pytest.raises(DataError, match=f"{home}/gone"):
                DATASETS.build({"name": name, **given, **more, wrong: "~/gone"}, seed=0)
    assert len(keys) == 6


def test_layers_and_weights_below_home(home):
    (home / "base.yaml").write_text("Global: {epochs: 3}\n")
    (home / "own.yaml").write_text("_base_: ~/base.yaml\n")
    assert load_config("~/own.yaml").Global.epochs == 3
    from passl.weights.locate import find_weights

    (home / "w.pdparams").touch()
    assert find_weights("~/w") == home / "w.pdparams"
    with pytest.raises(UserError, match=str(home)):
        find_image_files("~/nowhere", labelled=False)
    checked = check(load_config("~/own.yaml", ["Global.output_dir=~/out", "Model.name=x"]), {})
    assert checked.Global.output_dir == f"{home}/out"
