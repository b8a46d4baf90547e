"""`passl-assign`: clusters as CSV and as links, metrics, damaged files."""
import json
import shutil

import numpy as np
import pytest

import passl
from passl.cli import assign
from tests.cli.shared import SERIAL, rows


def test_assign_writes_csv_and_links(pretrained, pictures, tmp_path, capsys):
    arguments = [str(pretrained), str(pictures / "train"), *SERIAL]
    assert assign.main([*arguments, "--output", str(tmp_path / "c.csv"), "--links", str(tmp_path / "links")]) == 0
    table = rows(tmp_path / "c.csv")
    clusters = passl.assign(passl.get_model(str(pretrained)), pictures / "train").clusters[:, 0]
    assert table[0] == ["path", "cluster", "confidence"] and [int(row[1]) for row in table[1:]] == clusters.tolist()
    links = sorted((tmp_path / "links").rglob("*.png"))
    assert len(links) == 11 and all(link.is_symlink() and link.exists() for link in links)
    assert '"nmi"' in capsys.readouterr().out  # the folder has classes
    assert assign.main([*arguments, "--links", str(tmp_path / "links")]) == 1
    assert "not empty" in capsys.readouterr().err
    assert assign.main([*arguments, "--balanced", "--output", str(tmp_path / "b.csv")]) == 0
    with pytest.raises(SystemExit):
        assign.main(arguments)


def test_assign_leaves_damaged_files_out_and_writes_metrics(pretrained, pictures, tmp_path, caplog):
    shutil.copytree(pictures / "train", tmp_path / "in")
    broken = sorted((tmp_path / "in").rglob("*.png"))[4]
    broken.write_bytes(b"broken")
    arguments = [str(pretrained), str(tmp_path / "in"), "--output", str(tmp_path / "c.csv"), *SERIAL]
    assert assign.main(arguments) == 1
    assert assign.main([*arguments, "--skip-unreadable", "--metrics", str(tmp_path / "m.json"), "--temperature", "0.05"]
                       ) == 0
    assert broken.name in caplog.text
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["unreadable"] == 1 and metrics["temperature"] == 0.05 and metrics["heads"][0]["images"] == 10
    good = [path for path in sorted((tmp_path / "in").rglob("*.png")) if path != broken]
    expected = passl.assign(passl.get_model(str(pretrained)), good, temperature=0.05)
    table = rows(tmp_path / "c.csv")[1:]
    assert [row[0] for row in table] == [str(path) for path in good]
    np.testing.assert_array_equal([int(row[1]) for row in table], expected.clusters[:, 0])
    np.testing.assert_allclose([float(row[2]) for row in table], expected.confidence[:, 0], atol=1e-5)
    trained = (pretrained / "config.yaml").read_text()
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(trained.replace("epsilon: 0.05", "epsilon: 0.02"))
    assert "epsilon: 0.02" in (run / "config.yaml").read_text()
    (run / "latest.pdparams").write_bytes((pretrained / "latest.pdparams").read_bytes())
    balanced = [str(run / "latest.pdparams"), str(pictures / "train"), "--balanced", *SERIAL, "--metrics",
                str(tmp_path / "m.json"), "--output", str(tmp_path / "b.csv")]
    assert assign.main(balanced) == 0
    assert json.loads((tmp_path / "m.json").read_text())["epsilon"] == 0.02
    with pytest.raises(SystemExit):
        assign.main([*arguments, "--temperature", "0"])


def test_classes_that_are_none_are_said_and_those_of_several_folders_count(pretrained, pictures, tmp_path, capsys,
                                                                           caplog):
    shutil.copytree(pictures / "val", tmp_path / "in")
    arguments = [str(pretrained), "--output", str(tmp_path / "c.csv"), *SERIAL]
    assert assign.main([*arguments, str(tmp_path / "in"), str(pictures / "train")]) == 0
    assert '"nmi"' in capsys.readouterr().out
    shutil.copy(next((tmp_path / "in/colour_0").iterdir()), tmp_path / "in/logo.png")
    assert assign.main([*arguments, str(tmp_path / "in")]) == 0
    out = capsys.readouterr().out
    assert '"nmi"' not in out and "no classes, so no agreement" in out
    assert "logo.png beside the class folders" in caplog.text
