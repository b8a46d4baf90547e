"""File and class names that are not UTF-8, or that the terminal cannot show: every command says and writes them."""
from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import passl
from passl.cli import assign, embed, predict
from passl.config import Config, load_config
from passl.engine import log
from passl.inference.card import read_class_names
from passl.report.confusion_matrix import write_csv
from tests.cli.shared import SERIAL
from tests.methods import classifiers

CLASS, FILE = os.fsdecode(b"caf\xe9"), os.fsdecode(b"th\xe9 \xe8.png")


@pytest.fixture(scope="module")
def tree(tmp_path_factory, pictures):
    """The coloured squares, one class folder and one file of which have names that are not UTF-8; one is damaged."""
    root = tmp_path_factory.mktemp("names")
    for part in ("train", "val"):
        shutil.copytree(pictures / part, root / part)
        (root / part / "colour_2").rename(root / part / CLASS)
        sorted((root / part / CLASS).iterdir())[0].rename(root / part / CLASS / FILE)
    return root


def csv_rows(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def test_embed_assign_and_predict_write_them(pretrained, trained_probe, tree, tmp_path):
    image = str(tree / "val" / CLASS / FILE)
    assert embed.main([str(pretrained), str(tree / "val"), "--output", str(tmp_path / "e"), *SERIAL]) == 0
    assert [row[1:3] for row in csv_rows(tmp_path / "e/index.csv")].count([image, CLASS]) == 1
    assert assign.main([str(pretrained), str(tree / "val"), "--output", str(tmp_path / "a.csv"), "--links",
                        str(tmp_path / "links"), "--metrics", str(tmp_path / "m.json"), *SERIAL]) == 0
    assert [row[0] for row in csv_rows(tmp_path / "a.csv")].count(image) == 1
    assert [path.name for path in (tmp_path / "links").rglob("*")].count(FILE) == 1
    for suffix in ("csv", "json"):
        assert predict.main([str(trained_probe), str(tree / "val"), "--output", str(tmp_path / f"p.{suffix}"),
                             *SERIAL]) == 0
    assert image in [row[0] for row in csv_rows(tmp_path / "p.csv")]
    assert image in [entry["path"] for entry in json.loads((tmp_path / "p.json").read_text(encoding="ascii"))]


@pytest.mark.parametrize("encoding, expected", [("utf-8", b"th\xe9 \xe8.png"), ("ascii", b"th\xe9 \xe8.png")])
def test_a_command_prints_them(trained_probe, tree, tmp_path, encoding, expected):
    chinese = tmp_path / "\u6f22.png"
    shutil.copy(tree / "val" / CLASS / FILE, chinese)
    program = "import sys; from passl.cli.predict import main; sys.exit(main())"
    command = [sys.executable, "-c", program, str(trained_probe), str(tree / "val" / CLASS), str(chinese), *SERIAL]
    run = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert expected in run.stdout and ("\u6f22" if encoding == "utf-8" else "\\u6f22").encode(encoding) in run.stdout


def test_training_writes_classes_and_skipped_files(tree, tmp_path, capfd):
    damaged = shutil.copytree(tree, tmp_path / "damaged")
    (damaged / "train" / CLASS / FILE).write_bytes(b"broken")
    path = classifiers.write_config(tmp_path, damaged, epochs=1)
    output = tmp_path / os.fsdecode(b"r\xe9sultats")
    run = classifiers.trainer(path, f"Global.output_dir={output}", "DataLoader.Train.dataset.image_errors=skip")
    run.config.save(run.folder / "config.yaml")
    log.set_up(run.folder)
    run.run()
    assert read_class_names(run.folder / "classes.txt") == [CLASS, "colour_0", "colour_1"]
    assert b"caf\xe9/th\xe9 \xe8.png: not an image" in (run.folder / "train.log").read_bytes()
    assert "Traceback" not in capfd.readouterr().err
    assert load_config(str(run.folder / "config.yaml")).DataLoader.Train.dataset.root == f"{damaged}/train"
    model = passl.get_model(run.folder)
    assert model.card.classes[0] == CLASS
    assert passl.recalibrate(model, tree / "val", tmp_path / "again", size=32, batch_size=2) > 0
    assert read_class_names(tmp_path / "again/classes.txt")[0] == CLASS


def test_features_and_matrices_of_such_classes(pretrained, tree, tmp_path):
    model = passl.get_model(str(pretrained))
    for _ in range(2):
        assert passl.knn(model, tree / "train", tree / "val", [1], [0.1], cache=tmp_path / "cache")
    write_csv(np.eye(2, dtype=int), tmp_path / "c.csv", [CLASS, "ant"])
    assert csv_rows(tmp_path / "c.csv")[1][0] == CLASS


@pytest.mark.parametrize("names", [["a\x85b", "c\u2028d", " ", "e "], [CLASS, "\u6f22"]])
def test_a_class_name_is_one_line_whatever_it_holds(tmp_path, names):
    (tmp_path / "classes.txt").write_bytes(b"".join(os.fsencode(name) + b"\n" for name in names))
    assert read_class_names(tmp_path / "classes.txt") == names


def test_a_configuration_comes_back(tmp_path):
    Config({"Global": {"output_dir": FILE}}).save(str(tmp_path / "c.yaml"))
    assert load_config(str(tmp_path / "c.yaml")).Global.output_dir == FILE
    assert load_config(str(tmp_path / "c.yaml"), [f"Global.output_dir={CLASS}"]).Global.output_dir == CLASS


def test_what_cannot_be_written_is_said_before_the_work(pretrained, pictures, capsys):
    with pytest.raises(SystemExit):
        assign.main([str(pretrained), str(pictures / "val"), "--output", "/proc/clusters.csv", *SERIAL])
    assert "cannot write to /proc" in capsys.readouterr().err


def test_the_terminal_stops_no_log_line(capfd, monkeypatch):
    monkeypatch.setattr(sys, "stdout", open(os.dup(1), "w", encoding="ascii"))
    log.set_up(None)
    logging.getLogger("passl").info(f"skipped {FILE} \u6f22")
    sys.stdout.close()
    assert "skipped th\\udce9 \\udce8.png \\u6f22" in capfd.readouterr().out
