"""The commands that use a trained model, called as functions: files written, numbers right, bad input named."""
import csv
import json
import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest

import passl
from passl.cli import assign, embed, eval, export, knn, main, predict, probe, recalibrate

SERIAL = ["--workers", "0", "--device", "cpu", "--batch-size", "4"]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_predict_writes_json_and_csv(trained_probe, pictures, tmp_path, capsys):
    images = [str(pictures / "val"), str(next((pictures / "train").rglob("*.png")))]
    output = ["--output", str(tmp_path / "p.json")]
    assert predict.main([str(trained_probe), *images, "--top-k", "2", *output, *SERIAL]) == 0
    results = json.loads((tmp_path / "p.json").read_text())
    assert len(results) == 8
    paths = [result["path"] for result in results]
    expected = passl.inference_model(passl.get_model(str(trained_probe)), paths, top_k=2)
    for ours, theirs in zip(results, expected):
        assert [p["class"] for p in ours["predictions"]] == [name for name, _ in theirs["top"]]
        np.testing.assert_allclose([p["score"] for p in ours["predictions"]], [s for _, s in theirs["top"]], atol=1e-5)
    assert predict.main([str(trained_probe), images[1], "--output", str(tmp_path / "p.csv"), *SERIAL]) == 0
    assert [row[1] for row in rows(tmp_path / "p.csv")] == ["rank", "1", "2", "3"]
    assert predict.main([str(trained_probe), images[1], *SERIAL]) == 0
    assert "colour_" in capsys.readouterr().out


def test_predict_refuses_what_cannot_answer(pretrained, trained_probe, pictures, tmp_path, capsys):
    assert predict.main([str(pretrained), str(pictures / "val"), *SERIAL]) == 1
    assert "has no classifier" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("a\nb\n")
    assert predict.main([str(trained_probe), str(pictures / "val"), "--classes", "nofile", *SERIAL]) == 1
    assert "--classes nofile: there is no such file" in capsys.readouterr().err
    names = ["--classes", str(tmp_path / "names.txt")]
    assert predict.main([str(trained_probe), str(pictures / "val"), *names, *SERIAL]) == 1
    assert "2 class names for a classifier of 3" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        predict.main([str(trained_probe), "x.png", "--output", "p.txt"])


def test_embed_is_independent_of_workers_and_resumes(pretrained, pictures, tmp_path, monkeypatch, capsys):
    expected = passl.embed(passl.get_model(str(pretrained)), pictures / "train")
    for workers in ("0", "2"):
        folder = tmp_path / workers
        arguments = [str(pretrained), str(pictures / "train"), "--output", str(folder), *SERIAL, "--workers", workers]
        assert embed.main(arguments) == 0
        np.testing.assert_allclose(np.load(folder / "features.npy"), expected, atol=1e-5)
    index = rows(folder / "index.csv")
    assert index[0] == ["row", "path", "class", "readable"] and index[1][2:] == ["colour_0", "1"] and len(index) == 12
    assert embed.main(arguments) == 0  # complete: nothing to do
    assert "0 of them now" in capsys.readouterr().out

    from passl.inference import embedding_folder

    monkeypatch.setattr(embedding_folder, "SAVE_SECONDS", -1.0)
    real, seen = embedding_folder.stream, []

    def interrupted(*arguments):
        for batch in real(*arguments):
            seen.append(batch.start)
            yield batch
            if len(seen) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(embedding_folder, "stream", interrupted)
    arguments = [str(pretrained), str(pictures / "train"), "--output", str(tmp_path / "again"), *SERIAL]
    capsys.readouterr()
    assert embed.main(arguments) == 130
    assert "again: call again to continue" in capsys.readouterr().err
    assert not (tmp_path / "again" / "features.npy").exists()
    assert embed.main(arguments) == 0
    assert seen == [0, 4, 8]  # the third batch only, the second time
    np.testing.assert_array_equal(np.load(tmp_path / "again" / "features.npy"), np.load(tmp_path / "0/features.npy"))
    assert embed.main([str(pretrained), str(pictures / "val"), "--output", str(tmp_path / "again"), *SERIAL]) == 1
    assert "embeddings of other images" in capsys.readouterr().err


def test_embed_marks_unreadable_files(pretrained, pictures, tmp_path, capsys, caplog):
    (tmp_path / "in").mkdir()
    for number, path in enumerate(sorted((pictures / "val").rglob("*.png"))[:3]):
        (tmp_path / "in" / f"{number}.png").write_bytes(path.read_bytes() if number != 1 else b"broken")
    arguments = [str(pretrained), str(tmp_path / "in"), "--output", str(tmp_path / "out"), *SERIAL]
    assert embed.main(arguments) == 1
    assert "1.png" in capsys.readouterr().err
    assert embed.main([*arguments, "--skip-unreadable"]) == 0
    assert "1.png" in caplog.text
    features = np.load(tmp_path / "out" / "features.npy")
    assert np.isnan(features[1]).all() and np.isfinite(features[[0, 2]]).all()
    assert [row[3] for row in rows(tmp_path / "out" / "index.csv")[1:]] == ["1", "0", "1"]


def test_embed_says_what_is_wrong_with_its_folder(pretrained, pictures, tmp_path, capsys):
    from passl.inference.embedding_folder import _locked

    arguments = [str(pretrained), str(pictures / "val"), "--output", str(tmp_path), *SERIAL]
    with _locked(tmp_path):
        assert embed.main(arguments) == 1
    assert "another process is writing" in capsys.readouterr().err
    for text in ("", "[]", '{"key": 1}'):
        (tmp_path / "progress.json").write_text(text)
        assert embed.main(arguments) == 1
        assert "progress.json is damaged" in capsys.readouterr().err


@pytest.mark.dist
def test_knn_under_the_launcher(pretrained, pictures, tmp_path, capfd):
    """`--` keeps the launcher from taking --train for an abbreviation of its own options."""
    data = ["--train", str(pictures / "train"), "--test", str(pictures / "val"), "--k", "5", "--temperature", "0.1"]
    results = []
    for cache in ([], ["--cache", str(tmp_path / "cache")], ["--cache", str(tmp_path / "cache")]):
        output = tmp_path / f"knn_{len(results)}.json"
        (tmp_path / "knn_command.py").write_text("import sys\nfrom passl.cli.knn import main\nsys.exit(main())\n")
        launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir",
                  str(tmp_path / "log"), "--", str(tmp_path / "knn_command.py"), str(pretrained), *data, *cache,
                  "--output", str(output), *SERIAL]
        environment = {**os.environ, "PADDLE_DISTRI_BACKEND": "gloo"}
        assert subprocess.run(launch, env=environment, timeout=300).returncode == 0
        results.append(json.loads(output.read_text())["knn"])
    assert knn.main([str(pretrained), *data, "--output", str(tmp_path / "one.json"), *SERIAL]) == 0
    assert results == [json.loads((tmp_path / "one.json").read_text())["knn"]] * 3


@pytest.mark.parametrize("command", [predict, embed, assign, recalibrate])
def test_commands_of_one_process_refuse_a_launcher(command, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    with pytest.raises(SystemExit):
        command.main(["model", "images", "--output", str(tmp_path / "x")])
    assert "started 2 processes" in capsys.readouterr().err


@pytest.mark.parametrize("command, arguments, message", [
    (predict, ["--top-k", "0"], "--top-k 0"),
    (predict, ["--output", "nowhere/x.json"], "folder nowhere does not exist"),
    (assign, ["--output", "nowhere/x.csv"], "folder nowhere does not exist"),
    (assign, ["--output", "."], "is a folder"),
    (recalibrate, ["--output", "x", "--count", "0"], "--count 0"),
    (knn, ["--train", "a", "--test", "b", "--output", "nowhere/x.json"], "folder nowhere does not exist"),
    (probe, ["--train", "a", "--test", "b", "--output", "nowhere/x.json"], "folder nowhere does not exist")])
def test_wrong_options_end_before_the_work(command, arguments, message, capsys):
    images = [] if command in (knn, probe) else ["images"]
    with pytest.raises(SystemExit):
        command.main(["model", *images, *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("options, message", [
    (["--to", "q.json"], "without suffix"), (["--to", "q", "--size", "0"], "--size 0")])
def test_export_options(options, message, capsys):
    with pytest.raises(SystemExit):
        export.main(["--model", "x", *options])
    assert message in capsys.readouterr().err


def test_messages_speak_of_options_and_not_of_a_config(pretrained, pictures, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"broken")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/class").symlink_to(tmp_path / "in")
    output = ["--output", str(tmp_path / "out")]
    for command, arguments, message in (
            (embed, [str(tmp_path / "gone"), *output], "does not exist"),
            (embed, [str(tmp_path / "in"), *output], "--skip-unreadable leaves such files out"),
            (embed, [str(tmp_path / "in"), *output, "--threads", "-3"], "--threads -3 at least 1"),
            (knn, ["--train", str(pictures / "train"), "--test", "gone"], "--test gone does not exist"),
            (knn, ["--train", str(tmp_path / "tree"), "--test", str(pictures / "val")], "remove the file"),
            (recalibrate, [str(tmp_path / "in"), *output, "--batch-size", "1", "--size", "12"], "--skip-unreadable")):
        assert command.main([str(pretrained), *SERIAL, *arguments]) == 1
        error = capsys.readouterr().err
        assert message in error and "DataLoader" not in error and "image_errors" not in error


def test_warnings_are_lines_of_the_command(tmp_path):
    from passl.cli.run import run_guarded

    def warn():
        for message, file in (("theirs is odd", str(tmp_path / "other.py")), ("ours is odd", knn.__file__)):
            warnings.warn_explicit(message, UserWarning, file, 1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        format_before = warnings.formatwarning
        shown = []
        warnings.showwarning = lambda message, category, filename, lineno, file=None, line=None: shown.append(
            warnings.formatwarning(message, category, filename, lineno, line))
        assert run_guarded("passl-knn", warn) == 0
    assert warnings.formatwarning is format_before
    assert "other.py" in shown[0] and shown[1] == "passl-knn: warning: ours is odd\n"


def test_random_weights_are_no_features(pictures, tmp_path, capsys):
    assert embed.main(["resnet18", str(pictures), "--output", str(tmp_path / "x"), *SERIAL]) == 1
    assert "random weights" in capsys.readouterr().err


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


def test_probe_leaves_out_what_takes_hours_and_writes_plain_json(pretrained, pictures, tmp_path, monkeypatch, capsys):
    arguments = [str(pretrained), "--train", str(pictures / "train"), "--test", str(pictures / "val"), "--epochs", "3",
                 "--output", str(tmp_path / "p.json"), *SERIAL]

    def solvers(*more):
        assert probe.main([*arguments, *more]) == 0
        return {entry["solver"] for entry in json.loads((tmp_path / "p.json").read_text())["probes"]}

    assert solvers("--learning-rates", "0.1") == {"sgd", "logistic"}
    monkeypatch.setattr(probe, "LARGEST_LOGISTIC", 10)
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


def test_eval_needs_no_optimizer_and_writes_metrics(trained_probe, tmp_path, capsys):
    config = (trained_probe / "config.yaml").read_text()
    start, end = config.index("Optimizer:"), config.index("DataLoader:")
    (tmp_path / "eval.yaml").write_text(config[:start] + config[end:])
    arguments = ["-c", str(tmp_path / "eval.yaml"), "-o", f"Global.output_dir={tmp_path}/out"]
    assert eval.main([*arguments, f"Global.pretrained_model={trained_probe}/best"]) == 0
    metrics = json.loads((tmp_path / "out/swav_resnet18_linearprobe/eval/metrics.json").read_text())
    trained = [json.loads(line) for line in (trained_probe / "metrics.jsonl").read_text().splitlines()]
    assert metrics["top1"] == pytest.approx(max(record.get("eval_top1", 0) for record in trained))
    assert metrics["images"] == 7 and set(metrics["class_accuracy"]) == {"colour_0", "colour_1", "colour_2"}
    assert {path.name for path in (tmp_path / "out/swav_resnet18_linearprobe/eval").iterdir()} == {
        "metrics.json", "confusion_matrix.csv", "confusion_matrix.png"}
    assert '"top1"' in capsys.readouterr().out


def test_eval_numbers_classes_as_in_training(trained_probe, pictures, tmp_path, capsys):
    """A tree without the first class and one whose folders sort otherwise would shift every class number."""

    def evaluate(root, *overrides):
        status = eval.main(["-c", str(trained_probe / "config.yaml"), "-o", f"Global.output_dir={tmp_path}/out",
                            f"Global.pretrained_model={trained_probe}/best", f"DataLoader.Eval.dataset.root={root}",
                            *overrides])
        return status or json.loads((tmp_path / "out/swav_resnet18_linearprobe/eval/metrics.json").read_text())

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
    assert "bring no class names" in capsys.readouterr().err


@pytest.mark.parametrize("override, message", [
    ("Global.pretrained_model=null", "nothing to evaluate"), ("Global.pretrained_model=nowhere", "no weights at"),
    ("DataLoader.Eval=null", "DataLoader.Eval is missing"),
    ("Model={name: swav_resnet18_pretrain, backbone: {type: resnet18}}", "has no classifier")])
def test_eval_says_what_is_missing(trained_probe, tmp_path, capsys, override, message):
    arguments = ["-c", str(trained_probe / "config.yaml"), "-o", f"Global.output_dir={tmp_path}",
                 f"Global.pretrained_model={trained_probe}/best", override]
    assert eval.main(arguments) == 1
    assert message in capsys.readouterr().err


def test_eval_refuses_a_random_head(trained_probe, pretrained, tmp_path, capsys):
    assert eval.main(["-c", str(trained_probe / "config.yaml"), "-o", f"Global.output_dir={tmp_path}",
                      f"Global.pretrained_model={pretrained}/latest"]) == 1
    assert "linear.linear.weight" in capsys.readouterr().err


def test_export_by_config_and_by_model(trained_probe, pretrained, tmp_path, capsys):
    assert export.main(["-c", str(trained_probe / "config.yaml"), "-o", f"Global.output_dir={tmp_path}", "Export="
                        "{input_shape: [null, 3, 16, 16]}", f"Global.pretrained_model={trained_probe}/best"]) == 0
    assert (tmp_path / "swav_resnet18_linearprobe.pdiparams").is_file()
    assert export.main(["--model", str(pretrained), "--to", str(tmp_path / "trunk")]) == 0
    out = capsys.readouterr().out  # the run prepares images of 16 pixels
    assert "trunk.pdiparams" in out and "[any, 3, 16, 16]" in out
    assert export.main(["--model", str(pretrained), "--to", str(tmp_path / "trunk"), "--size", "20"]) == 0
    assert "[any, 3, 20, 20]" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        export.main(["--model", str(pretrained)])


def test_export_by_config_is_the_config_s_network(trained_probe, pretrained, tmp_path, capsys):
    """The same weights serve several networks: what comes out is what Model says, and never a part of it."""
    arguments = ["-c", str(pretrained / "config.yaml"), "-o", f"Global.output_dir={tmp_path}"]
    assert export.main([*arguments, f"Global.pretrained_model={pretrained}/latest", "--output", "embedding"]) == 0
    from passl.inference.exported import run_exported

    images = np.random.RandomState(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    assert run_exported(tmp_path / "SwAV", images).shape == (2, 8)
    for override in ("Model.backbone.nmb_prototypes=7", "Model.backbone.base_channels=8",
                     f"Global.pretrained_model={trained_probe}/best"):
        assert export.main([*arguments, f"Global.pretrained_model={pretrained}/latest", override]) == 1
        assert "weights from" in capsys.readouterr().err  # the table of what does not fit


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


def test_verbs(capsys):
    assert main.main([]) == 0 and main.main(["--version"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in main.VERBS) and passl.__version__ in out
    assert main.main(["predcit"]) == 2
    assert "did you mean 'predict'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main.main(["predict", "--help"])
    assert stop.value.code == 0


def test_every_verb_is_a_console_script(repository):
    text = (repository / "pyproject.toml").read_text()
    for verb, (module, _) in main.VERBS.items():
        assert f'passl-{verb} = "{module}:main"' in text
