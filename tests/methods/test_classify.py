"""Probe and fine-tuning: what is trained, what is left alone, at which rates, and which contradictions are refused."""
import math
import shutil

import numpy as np
import paddle
import pytest

from passl.config import check, load_config
from passl.methods.classify import decide_classes, top_fractions
from passl.registry import METHODS
from passl.weights import CheckpointError, read
from tests.distributed.ranks import run_ranks
from tests.methods.classifiers import (
    FINE_TUNE,
    FINE_TUNE_OPTIMIZER,
    PROBE,
    PROBE_OPTIMIZER,
    lines,
    trainer,
    write_config,
    write_squares,
)

BACKBONE = {"type": "resnet10", "stem": "small", "base_channels": 4}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_squares(tmp_path_factory.mktemp("squares"))


def state(run):
    return {name: tensor.numpy().copy() for name, tensor in run.method.model.state_dict().items()}


@pytest.mark.parametrize("use_bn", [False, True])
def test_probe_leaves_the_trunk_bit_identical_and_learns(tmp_path, images, use_bn):
    run = trainer(write_config(tmp_path, images), f"Model.use_bn={use_bn}", "Model.global_pooling=False",
                  "Optimizer.lr.learning_rate=0.03")
    before = state(run)
    run.run()
    after = state(run)
    changed = {name for name, value in after.items() if not np.array_equal(value, before[name])}
    heads = {"linear.linear.weight", "linear.linear.bias"}
    if use_bn:
        heads |= {f"linear.bn.{leaf}" for leaf in ("weight", "bias", "_mean", "_variance")}
    assert changed == heads
    assert after["linear.linear.weight"].shape == (4 * 32, 3)
    losses = [record["eval_loss"] for record in lines(run, "eval_loss")]
    assert losses[-1] < 0.8 * math.log(3)


def test_probe_is_initialised_as_published():
    paddle.seed(0)
    spec = {"name": "swav_resnet50_linearprobe", "backbone": {"type": "swavresnet50"}, "class_num": 1000}
    model = METHODS.build(spec)
    weight = model.model.linear.linear.weight.numpy()
    assert weight.shape == (2048, 1000) and abs(weight.std() - 0.01) < 1e-4 and abs(weight.mean()) < 1e-4
    assert not model.model.linear.linear.bias.numpy().any()
    assert [name for name, _ in model.trainable_parameters()] == ["linear.linear.weight", "linear.linear.bias"]


@pytest.mark.parametrize("size, positions", [(56, 7), (24, 3), (16, 2)])
def test_pooling_without_global_leaves_two_by_two_positions(size, positions):
    model = METHODS.build({"name": "LinearProbe", "backbone": BACKBONE, "class_num": 5, "global_pooling": False}).model
    model.eval()
    images = paddle.rand([2, 3, size, size])
    features = model.res_model.encoder(images).numpy()
    assert features.shape[2] == positions
    k = positions - 1
    windows = [features[:, :, i:i + k, j:j + k].mean((2, 3)) for i in (0, 1) for j in (0, 1)]
    flat = np.stack(windows, axis=2).reshape(2, -1)
    expected = flat @ model.linear.linear.weight.numpy() + model.linear.linear.bias.numpy()
    np.testing.assert_allclose(model(images).numpy(), expected, atol=1e-5)


def test_one_pixel_maps_are_refused_without_global_pooling():
    model = METHODS.build({"name": "LinearProbe", "backbone": BACKBONE, "class_num": 5, "global_pooling": False}).model
    with pytest.raises(ValueError, match="at least 2x2"):
        model(paddle.rand([1, 3, 8, 8]))


def test_fine_tuning_uses_both_rates_and_trains_batch_norm(tmp_path, images):
    run = trainer(write_config(tmp_path, images, FINE_TUNE, FINE_TUNE_OPTIMIZER))
    assert run.method.model.res_model.projection_head.weight.shape == [32, 3]
    bound = 1 / math.sqrt(32)
    assert np.abs(run.method.model.res_model.projection_head.weight.numpy()).max() <= bound
    before = state(run)
    run.run()
    for epoch in range(3):
        for step in range(3 * epoch, 3 * epoch + 3):
            rates = run.optimizer.set_step(step)
            assert rates["default"] == pytest.approx(0.02 * 0.2 ** epoch)
            assert rates["res_model.projection_head"] == pytest.approx(0.5 * 0.2 ** epoch)
    after = state(run)
    assert all(not np.array_equal(after[name], before[name]) for name in before)


def test_probe_follows_the_cosine_per_epoch(tmp_path, images):
    run = trainer(write_config(tmp_path, images, epochs=4))
    run.run()
    for record in lines(run, "loss"):
        assert record["lr"] == pytest.approx(0.15 * (1 + math.cos(math.pi * (record["epoch"] - 1) / 4)))
        assert {"top1", "top2"} <= set(record)


def test_rates_scale_to_the_global_batch_on_request(tmp_path, images, caplog):
    path = write_config(tmp_path, images, FINE_TUNE, FINE_TUNE_OPTIMIZER)
    run = trainer(path, "Global.lr_base_batch=256")
    assert run.optimizer.set_step(0) == {"res_model.projection_head": pytest.approx(0.5 / 64),
                                         "default": pytest.approx(0.02 / 64)}
    fitting, plain = ([finding.problem for finding in built.findings] for built in (run, trainer(path)))
    advice, = set(plain) - set(fitting)
    assert "does not fit a global batch of 4" in advice


def test_batch_size_equal_to_the_class_count_is_no_special_case(tmp_path, images):
    run = trainer(write_config(tmp_path, images), "DataLoader.Train.sampler.batch_size=3", "Global.epochs=1")
    run.run()
    assert all(0 < record["loss"] < 10 for record in lines(run, "loss"))


def test_best_epoch_is_kept_and_a_run_resumes_exactly(tmp_path, images):
    straight = trainer(write_config(tmp_path, images), f"Global.output_dir={tmp_path}/straight")
    straight.run()
    first = trainer(write_config(tmp_path, images), "Global.max_train_step=4")
    first.run()
    second = trainer(write_config(tmp_path, images), f"Global.checkpoint={first.folder}/latest")
    second.run()
    assert second.progress.best == straight.progress.best
    for name, value in state(straight).items():
        np.testing.assert_array_equal(value, state(second)[name], err_msg=name)
    best = read(str(second.folder / "best.pdparams")).tensors
    assert set(best) >= {"linear.linear.weight", "res_model.encoder.conv1.weight"}


@pytest.mark.parametrize("interval, epochs", [(1, [1, 2, 3]), (2, [2, 3])])
def test_validation_every_few_epochs_and_at_the_end(tmp_path, images, interval, epochs):
    run = trainer(write_config(tmp_path, images), f"Global.eval_interval={interval}")
    run.run()
    assert [record["epoch"] for record in lines(run, "eval_loss")] == epochs


def test_validation_every_few_steps(tmp_path, images):
    run = trainer(write_config(tmp_path, images), "Global.eval_unit=step", "Global.eval_interval=4")
    run.run()  # 9 steps
    assert [record["step"] for record in lines(run, "eval_loss")] == [4, 8, 9]


def test_pretrained_trunk_is_loaded_and_the_head_is_not(tmp_path, images, caplog):
    caplog.set_level("INFO", "passl")
    method = METHODS.build({"name": "swav_resnet10_pretrain", "backbone": {**BACKBONE, "output_dim": 3,
                                                                           "nmb_prototypes": 5}})
    path = str(tmp_path / "pretrained")
    paddle.save({name: tensor.numpy() for name, tensor in method.model.state_dict().items()}, path + ".pdparams")
    for suffix in ("", ".pdparams"):
        run = trainer(write_config(tmp_path, images, FINE_TUNE, FINE_TUNE_OPTIMIZER),
                      f"Global.pretrained_model={path}{suffix}")
        ours, theirs = state(run), {n: t.numpy() for n, t in method.model.state_dict().items()}
        for name in ours:
            same = np.array_equal(ours[name], theirs.get(name))
            assert same == ("encoder" in name), name  # its one-Linear head has the classifier's very shape
        trunk = sum("encoder" in name for name in ours)
        assert f"There are {trunk}/{len(ours)} variables loaded into backbone with {path}.pdparams" in caplog.messages


def test_missing_and_foreign_weights_stop_before_training(tmp_path, images):
    with pytest.raises(CheckpointError, match="nowhere"):
        trainer(write_config(tmp_path, images), f"Global.pretrained_model={tmp_path}/nowhere")
    paddle.save({"res_model.encoder.conv1.weight": np.zeros([4, 3, 7, 7], "float32")}, str(tmp_path / "other.pdparams"))
    with pytest.raises(CheckpointError, match="wrong shape|matches"):
        trainer(write_config(tmp_path, images), f"Global.pretrained_model={tmp_path}/other")


@pytest.mark.parametrize("overrides, message", [
    (["Model.class_num=2"], "3 classes and the classifier 2"),
    (["Model.backbone.output_dim=128"], "drop the key"),
    (["Metric.Train.0.TopkAcc.topk=[1,5]"], "Metric.Train TopkAcc.topk holds 5"),
    (["Metric.Eval.0.TopkAcc.topk=[1,5]"], "Metric.Eval TopkAcc.topk holds 5"),
    (["Global.knn_interval=1"], "watch pretraining"),
    (["DataLoader.Eval=null"], "needs DataLoader.Eval"),
])
def test_contradictions_are_refused_before_the_first_step(tmp_path, images, overrides, message):
    with pytest.raises(ValueError, match=message):
        trainer(write_config(tmp_path, images), *overrides)


def test_a_frozen_random_trunk_is_refused(tmp_path, images):
    with pytest.raises(ValueError, match="Global.pretrained_model is not set"):
        trainer(write_config(tmp_path, images), "Model.allow_untrained_trunk=False")
    run = trainer(write_config(tmp_path, images), "Global.max_train_step=1", f"Global.output_dir={tmp_path}/a")
    run.run()
    trainer(write_config(tmp_path, images), "Model.allow_untrained_trunk=False",
            f"Global.checkpoint={run.folder}/latest")
    fine_tuning = trainer(write_config(tmp_path, images, FINE_TUNE, FINE_TUNE_OPTIMIZER))
    assert any("starts from random weights" in str(finding) for finding in fine_tuning.findings)


def test_classes_of_evaluation_are_found_by_name(tmp_path, images):
    other = write_squares(tmp_path / "other", classes=3)
    shutil.rmtree(other / "val/colour_0")  # the others would be numbered 0 and 1
    run = trainer(write_config(tmp_path, images), f"DataLoader.Eval.dataset.root={other}/val")
    assert set(run.evaluations[0].loader.dataset.labels) == {1, 2}
    (other / "val/colour_1").rename(other / "val/colour_7")
    with pytest.raises(ValueError, match="DataLoader.Eval has the class 'colour_7'.* DataLoader.Train does not know"):
        trainer(write_config(tmp_path, images), f"DataLoader.Eval.dataset.root={other}/val")
    (other / "val.txt").write_text(f"{next((other / 'val').rglob('*.png'))} 3\n")
    with pytest.raises(ValueError, match="label 3, and DataLoader.Train has the classes colour_0,"):
        trainer(write_config(tmp_path, images), f"DataLoader.Eval.dataset.root={other}/val.txt")


def test_passl_files_are_accepted_value_by_value(repository):
    for name in ("lp_1n8c", "ft_1n4c"):
        with pytest.warns(UserWarning, match="task_type"):
            config = check(load_config(str(repository / f"tests/config/passl_yaml/{name}.yaml")))
        method = METHODS.build(config["Model"], losses=config["Loss"]["Train"], metrics=config["Metric"]["Train"])
        assert method.classes == 1000 and method.topk == [1, 5]


def test_number_of_classes():
    assert decide_classes(None, 0, 7) == 7 and decide_classes(10, 0, 7) == 10 and decide_classes(None, 1000, 7) == 1000
    with pytest.raises(ValueError, match="differ"):
        decide_classes(10, 1000, 7)
    with pytest.raises(ValueError, match="set Model.class_num"):
        decide_classes(None, 0, None)


def test_top_fractions():
    logits = paddle.to_tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [1.0, 2.0, 3.0]])
    values = top_fractions(logits, paddle.to_tensor([0, 2, 0]), [1, 2])
    assert [float(values[name]) for name in ("top1", "top2")] == pytest.approx([1 / 3, 2 / 3])


def train_on_ranks(path, output):
    run = trainer(path, f"Global.output_dir={output}")
    run.run()
    return {**state(run), "best": run.progress.best}


@pytest.mark.dist
@pytest.mark.parametrize("model, optimizer", [(PROBE, PROBE_OPTIMIZER), (FINE_TUNE, FINE_TUNE_OPTIMIZER)])
def test_two_ranks_train_what_one_process_trains(tmp_path, model, optimizer):
    images = write_squares(tmp_path / "squares", train=12)  # whole batches: a padded one repeats images
    path = write_config(tmp_path, images, model, optimizer, epochs=1)
    expected = train_on_ranks(path, str(tmp_path / "one"))
    path.write_text(path.read_text().replace("batch_size: 4, shuffle", "batch_size: 2, shuffle"))
    for run in run_ranks(train_on_ranks, 2, tmp_path, path=str(path), output=str(tmp_path / "two")):
        assert run.result["best"] == expected["best"]
        for name, value in expected.items():
            np.testing.assert_allclose(run.result[name], value, rtol=2e-3, atol=2e-4, err_msg=name)
