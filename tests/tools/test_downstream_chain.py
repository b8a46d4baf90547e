"""The chain's two trunks are comparable, and every command of it runs."""
import json

import numpy as np
import paddle
import pytest

import passl
from passl.inference.images import batches
from tests.engine import runs
from tools import downstream_chain, untrained_run


def test_untrained_run_is_where_training_starts(tmp_path):
    config = runs.write_config(tmp_path, runs.write_images(tmp_path / "images"))
    assert untrained_run.main(["-c", str(config), "-o", "Global.seed=3", "--to", str(tmp_path / "start")]) == 0
    expected = runs.trainer(config, "Global.seed=3").method.model.state_dict()
    weights = paddle.load(str(tmp_path / "start/passl.pdparams"))
    assert sorted(weights) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(weights[name]), value.numpy(), err_msg=name)
    assert passl.get_model(str(tmp_path / "start")).card.transform[0] == {"Resize": {"size": 16}}


def test_prediction_is_compared_with_the_exported_model(tmp_path):
    logits = np.array([[0.0, 2.0, 1.0]])
    probabilities = np.exp(logits[0]) / np.exp(logits[0]).sum()
    np.save(tmp_path / "logits.npy", logits)
    for shift in (0.0, 0.01):
        scores = [{"score": probabilities[1]}, {"score": probabilities[2] + shift}]
        (tmp_path / "p.json").write_text(json.dumps([{"predictions": scores}]))
        assert downstream_chain.compare_prediction(tmp_path / "p.json", tmp_path / "logits.npy") == pytest.approx(shift)


def test_what_is_recorded_is_not_measured_again(tmp_path):
    path, settings = tmp_path / "results.json", {"max_steps": None}
    first = downstream_chain.Record(path, settings)
    assert first.of(3, "untrained", "k-NN", lambda: {"top1": 0.25, "seconds": 2.0})["top1"] == 0.25
    again = downstream_chain.Record(path, settings)
    assert again.of(3, "untrained", "k-NN", lambda: pytest.fail("measured twice"))["top1"] == 0.25
    with pytest.raises(SystemExit, match="remove it, or choose another"):
        downstream_chain.Record(path, {"max_steps": 1})


def test_the_table_gives_mean_and_range_over_seeds():
    seeds = {str(seed): {trunk: {"weights": {"seconds": 1.0}, "k-NN": {"top1": top1 / 100, "seconds": 1.0}}
                         for trunk, top1 in (("pretrained", 60 + seed), ("untrained", 50 - seed))} for seed in (0, 2)}
    assert downstream_chain.table(seeds).splitlines()[2:] == [
        "| k-NN | 49.0 (48.0 to 50.0) | 61.0 (60.0 to 62.0) | +12.0 |"]


@pytest.mark.slow
def test_chain_with_one_step_of_each_training(tmp_path, capsys):
    from tools.quickstart.images import make_images

    make_images(tmp_path / "data", train_images=10, val_images=2)
    downstream_chain.main(["--recipe", "quickstart", "--data", f"{tmp_path}/data", "--output", f"{tmp_path}/out",
                           "--seeds", "0", "--max-steps", "1", "--probe-epochs", "1"])
    printed = capsys.readouterr().out
    assert "$ passl knn" in printed and "| linear probe |" in printed and "probabilities differ by" in printed
    runs_of = json.loads((tmp_path / "out/results.json").read_text())["seeds"]["0"]
    assert set(runs_of) == {"pretrained", "untrained"} and len(runs_of["untrained"]) == 6
    image = str(next((tmp_path / "data/val").rglob("*.png")))
    pretrained, untrained = (next(batches([image], passl.get_model(str(tmp_path / "out/0" / place)).card.transform, 1))
                             for place in ("pretrained/swav_resnet10_pretrain", "untrained/trunk"))
    np.testing.assert_array_equal(pretrained[1].numpy(), untrained[1].numpy())
    assert list(pretrained[1].shape) == [1, 3, 32, 32]
