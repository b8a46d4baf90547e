"""`passl-eval`: metrics of a config's classifier, and what it refuses."""
import json
import shutil

import pytest

from passl.cli import eval, export


def test_eval_needs_no_optimizer_and_writes_metrics(trained_probe, tmp_path, capsys):
    config = (trained_probe / "config.yaml").read_text()
    start, end = config.index("Optimizer:"), config.index("DataLoader:")
    (tmp_path / "eval.yaml").write_text(config[:start] + config[end:])
    arguments = ["-c", str(tmp_path / "eval.yaml"), "-o", f"Global.output_dir={tmp_path}/out"]
    assert eval.main([*arguments, f"Global.pretrained_model={trained_probe}/best"]) == 0
    metrics = json.loads((tmp_path / "out/swav_resnet10_linearprobe/eval/metrics.json").read_text())
    trained = [json.loads(line) for line in (trained_probe / "metrics.jsonl").read_text().splitlines()]
    assert metrics["top1"] == pytest.approx(max(record.get("eval_top1", 0) for record in trained))
    assert metrics["images"] == 7 and set(metrics["class_accuracy"]) == {"colour_0", "colour_1", "colour_2"}
    assert {path.name for path in (tmp_path / "out/swav_resnet10_linearprobe/eval").iterdir()} == {
        "metrics.json", "confusion_matrix.csv", "confusion_matrix.png"}
    assert '"top1"' in capsys.readouterr().out


def test_eval_numbers_classes_as_in_training(trained_probe, pictures, tmp_path, capsys):
    """A tree without the first class and one whose folders sort otherwise would shift every class number."""

    def evaluate(root, *overrides):
        status = eval.main(["-c", str(trained_probe / "config.yaml"), "-o", f"Global.output_dir={tmp_path}/out",
                            f"Global.pretrained_model={trained_probe}/best", f"DataLoader.Eval.dataset.root={root}",
                            *overrides])
        return status or json.loads((tmp_path / "out/swav_resnet10_linearprobe/eval/metrics.json").read_text())

    whole = evaluate(pictures / "val")["class_accuracy"]
    for name in ("colour_1", "colour_2"):
        shutil.copytree(pictures / "val" / name, tmp_path / "part" / name)
    part = evaluate(tmp_path / "part")
    assert part["class_accuracy"] == {name: whole[name] for name in ("colour_1", "colour_2")} and part["images"] == 4
    (tmp_path / "part/colour_2").rename(tmp_path / "part/colour_3")
    assert evaluate(tmp_path / "part") == 1
    assert "has the class 'colour_3'" in capsys.readouterr().err
    bare = tmp_path / "bare.pdparams"
    bare.write_bytes((trained_probe / "latest.pdparams").read_bytes())
    assert evaluate(tmp_path / "part", f"Global.pretrained_model={bare}") == 1
    assert "nothing tells which number is which folder" in capsys.readouterr().err


@pytest.mark.parametrize("override, message", [
    ("Global.pretrained_model=null", "nothing to evaluate"), ("Global.pretrained_model=nowhere", "no weights at"),
    ("DataLoader.Eval=null", "DataLoader.Eval is missing"),
    ("Model={name: swav_resnet10_pretrain, backbone: {type: resnet10}}", "has no classifier")])
def test_eval_says_what_is_missing(trained_probe, tmp_path, capsys, override, message):
    arguments = ["-c", str(trained_probe / "config.yaml"), "-o", f"Global.output_dir={tmp_path}",
                 f"Global.pretrained_model={trained_probe}/best", override]
    assert eval.main(arguments) == 1
    assert message in capsys.readouterr().err


def test_eval_refuses_a_random_head(trained_probe, pretrained, tmp_path, capsys):
    assert eval.main(["-c", str(trained_probe / "config.yaml"), "-o", f"Global.output_dir={tmp_path}",
                      f"Global.pretrained_model={pretrained}/latest"]) == 1
    assert "linear.linear.weight" in capsys.readouterr().err


@pytest.mark.parametrize("command", [eval, export])
def test_commands_that_do_not_train_need_no_epochs(trained_probe, tmp_path, command):
    import yaml

    config = yaml.safe_load((trained_probe / "config.yaml").read_text())
    sections = {"Model": config["Model"], "DataLoader": {"Eval": config["DataLoader"]["Eval"]}}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(sections))
    assert command.main(["-c", str(tmp_path / "short.yaml"), "-o", f"Global.pretrained_model={trained_probe}/best",
                         f"Global.output_dir={tmp_path}", "Global.device=cpu",
                         "Export={input_shape: [1, 3, 16, 16]}"]) == 0
    with pytest.raises(SystemExit):
        command.main(["-c", str(tmp_path / "short.yaml"), "-p", "batch_range=[1, 2]"])
