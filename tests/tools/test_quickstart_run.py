import json

import numpy as np
import pytest

from passl.report.curve import draw_loss, read_history
from tools.quickstart import images, run


def test_table_lists_what_was_learnt_last():
    lines = run.table({"pixels": 21.04, "untrained": 19.0, "swav": 60.0}).splitlines()
    assert "chance 5 %" in lines[0]
    assert [line.split()[-2] for line in lines[1:]] == ["21.0", "19.0", "60.0"]
    assert "SwAV" in lines[-1]


def test_history_leaves_out_evaluations(tmp_path):
    step = {"step": 0, "loss": 3.0, "step_time": 0.1}
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(step) + "\n" + json.dumps({"step": 1, "knn20": 0.5}) + "\n")
    assert read_history(path) == [step]


def test_loss_curve_of_a_short_run(tmp_path):
    from passl.data.decode import read_image

    history = [{"step": step, "loss": 3.0 - 0.1 * step, "target_entropy": 2.0} for step in range(3)]
    draw_loss(history, 30, tmp_path / "plots" / "loss.png")
    assert read_image(str(tmp_path / "plots" / "loss.png")).std() > 5


@pytest.mark.slow
def test_whole_quickstart_with_a_few_steps(tmp_path, monkeypatch, capsys):
    whole = images.make_images
    monkeypatch.setattr(images, "make_images", lambda folder: whole(folder, train_images=30, val_images=5))
    assert run.main(["--folder", str(tmp_path), "--steps", "2", "--seed", "5"]) == 0
    printed = capsys.readouterr().out
    accuracies = [float(line.split()[-2]) for line in printed.splitlines() if line.endswith(" %")]
    assert len(accuracies) == 3 and all(0 <= value <= 100 for value in accuracies)
    assert "2 steps in" in printed

    output = tmp_path / "output"
    (folder,) = output.glob("*/latest.pdparams")
    history = read_history(folder.parent / "metrics.jsonl")
    assert [record["step"] for record in history] == [0, 1]
    assert np.isfinite([record["loss"] for record in history]).all()
    assert (tmp_path / "loss.png").stat().st_size > 1000
    assert list((output / "vdl").iterdir())
    assert run.main(["--folder", str(tmp_path), "--steps", "1"]) == 0  # again, over its own earlier run
    assert len(read_history(folder.parent / "metrics.jsonl")) == 1


def test_help_needs_no_paddle(capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(["--help"])
    assert stopped.value.code == 0 and "--steps" in capsys.readouterr().out
