"""The comparison's settings and verdicts, and one tiny comparison of all methods from start to table."""
import json

import pytest

from tests.engine.runs import CONFIG, write_images
from tools.compare_methods import clustering_methods, main, parse, run_settings, table

MODEL = {"name": "swav_resnet18_pretrain", "epsilon": 0.03, "queue_length": 8, "freeze_prototypes_epochs": 2,
         "backbone": {"type": "resnet18", "output_dim": 4, "nmb_prototypes": 6}}
BASE = {"Global": {"epochs": 1}, "Model": MODEL,
        "DataLoader": {"Train": {"dataset": {"size_crops": [16], "mean": [0.1] * 3, "std": [0.2] * 3}}}}


@pytest.mark.parametrize("method, keys, prototypes", [
    ("SwAV", {"epsilon", "queue_length", "freeze_prototypes_epochs"}, 6),
    ("UnMixSwAV", {"epsilon", "queue_length", "freeze_prototypes_epochs"}, 6),
    ("SeLaV2", {"epsilon", "freeze_prototypes_epochs"}, [6, 6]),
    ("DeepClusterV2", set(), [6, 6]),
    ("SeLa", set(), [6, 6]),
])
def test_each_method_takes_the_keys_it_knows(method, keys, prototypes):
    settings = run_settings(BASE, method, 4, parse(["-c", "x.yaml", "--heads", "2", "--test", "folder"]))
    assert set(settings["Model"]) == keys | {"name", "backbone"} and settings["Model"]["name"] == method
    assert settings["Model"]["backbone"].get("output_dim") == (None if method == "SeLa" else 4)
    assert settings["Model"]["backbone"]["nmb_prototypes"] == prototypes and settings["Global"]["seed"] == 4
    # Frozen as long as SwAV's, SeLa-v2's prototypes would never be trained; the usual freeze is one epoch.
    assert settings["Model"].get("freeze_prototypes_epochs") == {"SwAV": 2, "UnMixSwAV": 2, "SeLaV2": 1}.get(method)
    assert settings["DataLoader"]["Eval"]["dataset"]["transform"][-1]["Normalize"] == {"mean": [0.1] * 3,
                                                                                       "std": [0.2] * 3}


def test_all_clustering_methods_are_compared():
    assert clustering_methods() == ["DeepClusterV2", "SeLa", "SeLaV2", "SwAV", "UnMixSwAV"]
    assert clustering_methods(["swav_resnet50_pretrain"]) == ["swav_resnet50_pretrain"]
    with pytest.raises(SystemExit, match="FineTune has no prototypes.*SeLaV2"):
        clustering_methods(["SwAV", "FineTune"])


def test_without_test_images_it_says_what_to_do():
    with pytest.raises(SystemExit, match="--test"):
        run_settings(BASE, "SwAV", 0, parse(["-c", "x.yaml"]))


@pytest.mark.parametrize("after, verdict", [([52, 50], "yes"), ([52, 41], "k-NN NO, probe yes")])
def test_verdict_compares_the_gain_with_the_spread(after, verdict):
    model = {"name": "SwAV", "freeze_prototypes_epochs": 14}
    runs = [{"method": "SwAV", "seed": seed, "seconds": 90, "before": {"knn": 40 + seed, "probe": 50},
             "after": {"knn": knn, "probe": 60}, "settings": {"Model": model}} for seed, knn in enumerate(after)]
    lines = table(runs, ["SwAV"]).splitlines()
    assert lines[0].endswith("over seeds. Epochs with frozen prototypes: SwAV 14.")
    line = lines[-1]
    mean, half = sum(after) / 2, (max(after) - min(after)) / 2
    assert line == (f"| SwAV | 40.5 ± 0.5 | {mean:.1f} ± {half:.1f} | 50.0 ± 0.0 | 60.0 ± 0.0 | {verdict} | 1.5 |")


def test_one_seed_gives_no_verdict():
    run = {"method": "SwAV", "seed": 3, "seconds": 60, "before": {"knn": 40, "probe": 50},
           "after": {"knn": 60, "probe": 60}, "settings": {"Model": {"name": "SwAV"}}}
    assert "| one seed shows no spread |" in table([run], ["SwAV"])


@pytest.mark.slow
def test_one_comparison(tmp_path, capsys):
    text = CONFIG.format(images=write_images(tmp_path / "train"), output=tmp_path / "output", batch=4)
    config = tmp_path / "run.yaml"
    config.write_text(text.replace("num_crops: [2, 1]", "num_crops: [2, 2]").replace("epochs: 3", "epochs: 1"))
    test = write_images(tmp_path / "test", 10)
    command = ["-c", str(config), "--test", str(test), "--seeds", "0", "--heads", "1",
               "--output", str(tmp_path / "compare"), "--table", str(tmp_path / "results.md")]
    main(command)
    runs = [json.loads(line) for line in (tmp_path / "compare" / "runs.jsonl").read_text().splitlines()]
    assert [run["method"] for run in runs] == ["DeepClusterV2", "SeLa", "SeLaV2", "SwAV", "UnMixSwAV"]
    assert len({run["before"]["knn"] for run in runs}) == 1  # one network, one seed
    first = (tmp_path / "results.md").read_text()
    main(command)  # nothing is left to run
    assert (tmp_path / "results.md").read_text() == first and first.strip() in capsys.readouterr().out
    (tmp_path / "compare" / "runs.jsonl").unlink()  # as if stopped before the first score was kept
    main([*command, "--methods", "SwAV"])
    assert len((tmp_path / "compare" / "runs.jsonl").read_text().splitlines()) == 1
