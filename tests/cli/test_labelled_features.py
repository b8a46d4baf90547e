"""`passl-knn` and `passl-probe`: features extracted once, by one process or several, and kept."""
import json
import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest

import passl
from passl.cli import knn, probe
from tests.cli.shared import SERIAL
from tests.distributed.ranks import run_ranks


def knn_here(arguments):
    assert knn.main(arguments) == 0


@pytest.mark.dist
def test_knn_on_two_ranks(pretrained, pictures, tmp_path, capfd):
    """`--` keeps the launcher from taking --train for an abbreviation of its own options."""
    outputs = [tmp_path / f"knn_{name}.json" for name in ("launched", "cached", "from cache", "one process")]
    data = [str(pretrained), "--train", str(pictures / "train"), "--test", str(pictures / "val"), "--k", "5",
            "--temperature", "0.1", *SERIAL]
    (tmp_path / "knn_command.py").write_text("import sys\nfrom passl.cli.knn import main\nsys.exit(main())\n")
    launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir",
              str(tmp_path / "log"), "--", str(tmp_path / "knn_command.py"), *data, "--output", str(outputs[0])]
    environment = {**os.environ, "PADDLE_DISTRI_BACKEND": "gloo"}
    assert subprocess.run(launch, env=environment, timeout=300).returncode == 0
    for output in outputs[1:3]:
        run_ranks(knn_here, 2, tmp_path, arguments=[*data, "--cache", str(tmp_path / "cache"), "--output", str(output)])
    knn_here([*data, "--output", str(outputs[3])])
    results = [json.loads(output.read_text())["knn"] for output in outputs]
    assert results == [results[3]] * 4


def test_knn_and_probe_share_cached_features(pretrained, pictures, tmp_path, capsys):
    data = ["--train", str(pictures / "train"), "--test", str(pictures / "val"), "--cache", str(tmp_path / "cache")]
    assert knn.main([str(pretrained), *data, "--k", "1", "5", "--temperature", "0.1", "--output",
                     str(tmp_path / "knn.json"), *SERIAL]) == 0
    result = json.loads((tmp_path / "knn.json").read_text())["knn"]
    model = passl.get_model(str(pretrained))
    bank, queries = (passl.embed(model, pictures / part) for part in ("train", "val"))
    unit = [features / np.linalg.norm(features, axis=1, keepdims=True) for features in (bank, queries)]
    nearest = (unit[1] @ unit[0].T).argmax(1)
    labels = [[int(path.parent.name[-1]) for path in sorted((pictures / part).rglob("*.png"))]
              for part in ("train", "val")]
    assert result[0]["top1"] == pytest.approx(np.mean(np.array(labels[0])[nearest] == np.array(labels[1])))
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["test", "train"]
    assert probe.main([str(pretrained), *data, "--epochs", "3", "--strengths", "1", "--learning-rates", "0.1", "1",
                       "--output", str(tmp_path / "probe.json"), *SERIAL]) == 0
    result = json.loads((tmp_path / "probe.json").read_text())
    assert [entry["solver"] for entry in result["probes"]] == ["sgd", "sgd", "logistic"]
    assert result["best"]["top1"] == max(entry["top1"] for entry in result["probes"])
    assert "| sgd | 0.1 |" in capsys.readouterr().out.replace("**", "")


def test_classes_of_the_test_images_are_found_by_name(pretrained, pictures, tmp_path, caplog):
    """A test tree that lacks the first class, and the same images as a list of numbers, equal the images with all."""
    shutil.copytree(pictures / "val", tmp_path / "part")
    shutil.rmtree(tmp_path / "part/colour_0")
    paths = sorted((tmp_path / "part").rglob("*.png"))
    numbered = tmp_path / "numbered"  # a tree called by numbers that are not the order of its names
    for number, name in ((7, "colour_0"), (10, "colour_1"), (9, "colour_2")):
        shutil.copytree(pictures / "train" / name, numbered / str(number))
    (tmp_path / "list.txt").write_text("".join(
        f"{path} {dict(colour_1=10, colour_2=9)[path.parent.name]}\n" for path in paths))
    model = passl.get_model(str(pretrained))
    features = [passl.embed(model, part) for part in (pictures / "train", paths)]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in features]
    owners = np.array([path.parent.name for path in sorted((pictures / "train").rglob("*.png"))])
    top1 = np.mean(owners[(unit[1] @ unit[0].T).argmax(1)] == [path.parent.name for path in paths])
    for train, test in ((pictures / "train", tmp_path / "part"), (numbered, tmp_path / "list.txt")):
        for _ in range(2):  # with features that are extracted, and with the kept ones
            found, = passl.knn(model, train, test, [1], [0.1], cache=tmp_path / f"cache_{train.name}")
            assert found.top1 == pytest.approx(top1)
    assert passl.probe(model, pictures / "train", tmp_path / "part", [], strengths=[1.0]).best.top1 > 0
    assert "as well" not in caplog.text
    passl.knn(model, pictures / "train", pictures / "train", [1], [0.1])
    assert "11 of the 11 images of" in caplog.text


def test_probe_leaves_out_what_takes_hours_and_writes_plain_json(pretrained, pictures, tmp_path, monkeypatch, capsys):
    arguments = [str(pretrained), "--train", str(pictures / "train"), "--test", str(pictures / "val"), "--epochs", "3",
                 "--output", str(tmp_path / "p.json"), *SERIAL]

    def solvers(*more):
        assert probe.main([*arguments, *more]) == 0
        return {entry["solver"] for entry in json.loads((tmp_path / "p.json").read_text())["probes"]}

    assert solvers("--learning-rates", "0.1") == {"sgd", "logistic"}
    monkeypatch.setattr("passl.inference.accuracy.LARGEST_LOGISTIC", 10)
    assert solvers("--learning-rates", "0.1") == {"sgd"}
    assert "logistic regression left out: 11 images x 32 features" in capsys.readouterr().out
    assert solvers("--learning-rates", "0.1", "--strengths", "1") == {"sgd", "logistic"}
    assert probe.main([*arguments, "--learning-rates"]) == 1
    with pytest.warns(UserWarning, match="diverged"):
        assert solvers("--learning-rates", "0.1", "1e38") == {"sgd"}

    def refuse(constant):
        raise ValueError(constant)

    entries = json.loads((tmp_path / "p.json").read_text(), parse_constant=refuse)["probes"]
    assert entries[1]["top1"] is None and entries[0]["top1"] is not None


def test_cached_features_are_of_these_files_and_labels(pretrained, tmp_path, capsys):
    """Renaming a class or replacing a picture under the same path must not bring back what was there before."""
    from tests.methods.classifiers import write_squares

    data = write_squares(tmp_path / "data")
    arguments = [str(pretrained), "--train", str(data / "train"), "--test", str(data / "val"), "--cache",
                 str(tmp_path / "cache"), "--k", "1", "--temperature", "0.1", *SERIAL]
    assert knn.main(arguments) == 0
    before = np.load(tmp_path / "cache/train/features.npy").copy()
    manifest = (tmp_path / "cache/train/manifest.json").read_text()
    first, other = (sorted((data / "train" / name).iterdir())[0] for name in ("colour_0", "colour_2"))
    first.write_bytes(other.read_bytes())
    with pytest.warns(UserWarning, match="another images"):
        assert knn.main(arguments) == 0
    after = np.load(tmp_path / "cache/train/features.npy")
    assert not np.allclose(after[0], before[0]) and (after[1:] == before[1:]).all()
    assert (tmp_path / "cache/train/manifest.json").read_text() != manifest
    listed = [tmp_path / f"{part}.txt" for part in ("train", "val")]
    for shift in (0, 1):  # the same files under other labels
        for part, path in zip(("train", "val"), listed):
            files = sorted((data / part).rglob("*.png"))
            path.write_text("".join(f"{file} {(int(file.parent.name[-1]) + shift) % 3}\n" for file in files))
        arguments[2], arguments[4] = map(str, listed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert knn.main(arguments) == 0
        labels = np.load(tmp_path / "cache/train/labels.npy")
        assert labels.tolist() == [(int(file.parent.name[-1]) + shift) % 3 for file in sorted(
            (data / "train").rglob("*.png"))]
