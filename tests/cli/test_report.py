"""`passl-report` from a run and a folder to a page."""
import json
import shutil

import numpy as np
import pytest

import passl
from passl.cli import report
from passl.report.collect import collect_report, nearest_cluster
from passl.report.page.assemble import HERE
from tests.cli.shared import SERIAL
from tests.report.test_page import read


def test_report_of_a_run_and_of_a_trunk(pretrained, pictures, tmp_path, capsys):
    shutil.copytree(pictures / "train", tmp_path / "photos")
    files = sorted((tmp_path / "photos").rglob("*.png"))
    files[1].write_bytes(b"broken")
    shutil.copy(files[0], files[0].with_name("copy.png"))
    assert report.main([str(pretrained), str(pretrained / "latest"), str(tmp_path / "photos"), *SERIAL, "--map",
                        "pca", "--output", str(tmp_path / "page.html"), "--language", "zh"]) == 0
    said = capsys.readouterr().out
    assert "1 files could not be read" in said and "NMI" in said and "near duplicates" in said
    page = read(tmp_path / "page.html")
    data = json.loads(page.scripts["data"])
    assert len(data["names"]) == len(files) and len(data["networks"]) == 2
    assert len(json.loads(page.scripts["ends"])) == len(files)
    assert sum(cluster["size"] for cluster in data["networks"][0]["clusterings"][0]["clusters"]) == len(files)
    names = [[data["names"][row].split("/")[-1] for row in rows] for rows in data["duplicates"]]
    assert any({"copy.png", files[0].name} <= set(rows) for rows in names)
    assert ("html", {"lang": "zh"}) in page.tags


def test_clusters_are_those_of_assign(pretrained, pictures):
    found = collect_report([str(pretrained)], pictures / "train", map_method="pca")
    expected = passl.assign(passl.get_model(str(pretrained)), pictures / "train")
    clustering = found.networks[0].clusterings[0]
    np.testing.assert_array_equal(clustering.assigned, expected.clusters[:, 0])
    np.testing.assert_allclose(clustering.confidence, expected.confidence[:, 0], atol=1e-5)
    assert found.networks[0].training.history and found.networks[0].training.prototypes == clustering.count
    assert found.root + found.names[0] == str(sorted((pictures / "train").rglob("*.png"))[0])


def test_a_trunk_without_prototypes_gets_clusters_by_k_means(pictures):
    trunk = passl.get_model("resnet10", base_channels=4, stem="small")
    found = collect_report([trunk], pictures / "train", map_method="pca")
    assert found.networks[0].clusterings[0].name == "k-means" and found.networks[0].training is None
    texts = json.loads((HERE / "texts.json").read_text(encoding="utf-8"))
    assert found.networks[0].clusterings[0].note == texts["kmeans_note"][0]


def test_margin_and_confidence_equal_a_plain_softmax():
    scores = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)
    assigned, score, margin, confidence = nearest_cluster(scores, 0.5)
    for row in range(20):
        probabilities = np.exp(scores[row] / 0.5) / np.exp(scores[row] / 0.5).sum()
        first, second = np.sort(probabilities)[::-1][:2]
        assert assigned[row] == probabilities.argmax() and score[row] == scores[row].max()
        np.testing.assert_allclose([margin[row], confidence[row]], [first - second, first], rtol=1e-4, atol=1e-6)


def test_what_cannot_work_ends_with_a_message(pictures, tmp_path, capsys):
    for options in (["--output", str(tmp_path / "none" / "page.html")], ["--thumbnails", "3"]):
        with pytest.raises(SystemExit):
            report.main(["nothing", "photos", *options])
    assert "fewer than 16 pixels" in capsys.readouterr().err
    assert report.main([str(tmp_path), str(pictures / "train"), *SERIAL, "--output", str(tmp_path / "page.html")]) == 1
    assert "no weights" in capsys.readouterr().err
