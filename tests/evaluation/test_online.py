"""k-NN and the linear probe during pretraining: right values, and no trace in what is being trained."""
import numpy as np
import paddle
import pytest

from passl import distributed
from passl.evaluation.online import OnlineProbe
from tests.distributed.ranks import run_ranks
from tests.engine.runs import assert_same_state, state_of, trainer, write_config, write_images
from tests.methods import family
from tests.methods.classifiers import lines

QUERIES = "DataLoader.Eval={dataset: {name: ImageFolder, root: %s, transform: [Normalize: {mean: 0.5, std: 0.25}]}, " \
          "sampler: {batch_size: 5}, loader: {num_workers: 0}}"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


def pretraining(folder, images, *overrides):
    folder.mkdir()
    return trainer(write_config(folder, images), "Global.epochs=2", QUERIES % images, *overrides)


def test_watching_changes_nothing_that_is_trained(tmp_path, images):
    plain = pretraining(tmp_path / "plain", images)
    watched = pretraining(tmp_path / "watched", images, "Global.knn_interval=1", "Global.online_probe=True")
    plain.run()
    watched.run()
    assert_same_state(state_of(plain), state_of(watched))
    records = lines(watched, "eval_knn10")
    assert [record["epoch"] for record in records] == [1, 2]
    # The query images are the bank: 22 images, so k = 200 is left out and knn20 decides.
    assert records[-1]["eval_metric"] == records[-1]["eval_knn20"] and "eval_knn200" not in records[-1]
    assert 0 <= records[-1]["eval_online_probe"] <= 1
    assert {"probe_loss", "probe_top1"} <= set(lines(watched, "loss")[-1])
    assert watched.progress.best == max(record["eval_metric"] for record in records)


def test_evaluations_count_the_unit_that_is_asked_for(tmp_path, images):
    run = pretraining(tmp_path / "steps", images, "Global.online_probe=True", "Global.eval_interval=4",
                      "Global.eval_unit=step")
    run.run()
    assert [record["step"] for record in lines(run, "eval_online_probe")] == [4, 8, 10]  # and at the end
    run = pretraining(tmp_path / "epochs", images, "Global.online_probe=True", "Global.knn_interval=2",
                      "Global.eval_unit=step")
    assert run.findings[0].problem.startswith("Global.eval_unit step has no effect: Global.knn_interval counts epochs")


def probe_of(run):
    return run.parts.companions["online_probe"]


def test_online_probe_resumes_exactly(tmp_path, images):
    straight = pretraining(tmp_path / "straight", images, "Global.online_probe=True")
    straight.run()
    first = pretraining(tmp_path / "first", images, "Global.online_probe=True", "Global.max_train_step=7")
    first.run()
    second = pretraining(tmp_path / "second", images, "Global.online_probe=True",
                         f"Global.checkpoint={first.folder}/latest")
    second.run()
    for name in ("weight", "bias", "velocity"):
        resumed = getattr(probe_of(second), name).numpy()
        np.testing.assert_array_equal(resumed, getattr(probe_of(straight), name).numpy())
    assert np.abs(probe_of(straight).weight.numpy()).max() > 0


def probe_steps(steps=3, rows=4):
    """Weights after a few steps on this rank's share of `rows` images in two crops, split into two micro-batches."""
    generator = np.random.RandomState(0)
    data = generator.normal(size=(steps, 2, rows, 6)).astype(np.float32)
    labels = np.array([0, 1, 2, -1], np.int64)
    probe = OnlineProbe(6, labels, 3)
    rank, size = distributed.rank(), distributed.world_size()
    mine = np.arange(rows)[rank::size]
    for step in range(steps):
        probe.before_step()
        probe.observe(paddle.ones([1, 1, 6]), np.array([0]))  # of a step that is left out
        probe.before_step()
        for half in np.array_split(mine, 2) if len(mine) > 1 else [mine]:
            probe.observe(paddle.to_tensor(data[step][:, half]), half)
        probe.after_step()
    return {"weight": probe.weight.numpy(), "bias": probe.bias.numpy()}


def reference(steps=3, rows=4):
    data = np.random.RandomState(0).normal(size=(steps, 2, rows, 6)).astype(np.float32).astype(np.float64)
    weight, bias, velocity = np.zeros((6, 3)), np.zeros(3), [0, 0]
    for step in range(steps):
        x = data[step][:, :3].reshape(-1, 6)  # the fourth image has no label
        logits = x @ weight + bias
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        error = (p - np.eye(3)[[0, 1, 2, 0, 1, 2]]) / len(x)
        velocity = [0.9 * velocity[0] + x.T @ error, 0.9 * velocity[1] + error.sum(0)]
        weight, bias = weight - 0.1 * velocity[0], bias - 0.1 * velocity[1]
    return weight, bias


def test_online_probe_is_momentum_sgd_on_the_first_crops():
    weight, bias = reference()
    result = probe_steps()
    np.testing.assert_allclose(result["weight"], weight, atol=1e-6)
    np.testing.assert_allclose(result["bias"], bias, atol=1e-6)


@pytest.mark.dist
def test_online_probe_on_two_ranks_equals_one(tmp_path):
    weight, bias = reference()
    for run in run_ranks(probe_steps, 2, tmp_path):
        np.testing.assert_allclose(run.result["weight"], weight, atol=1e-6)
        np.testing.assert_allclose(run.result["bias"], bias, atol=1e-6)


@pytest.mark.parametrize("model, crops", [("SwAV", [0, 1]), ("UnMixSwAV", [0, 1]), ("DeepClusterV2", [0, 1]),
                                          ("SeLa", [0, 1])])
def test_features_shown_are_those_of_images_and_of_no_mixtures(model, crops):
    method = family.build(model)
    method.train()
    batch = next(family.batches(0, dtype="float32"))
    shown, computed = [], []

    def noted(layer, inputs, output):
        shown.append(inputs[0])
        computed.append(output.mean(axis=[2, 3]))

    method.model.res_model.encoder.register_forward_post_hook(noted)
    features = method.training_step(batch, method.plan([batch])[0]).features.numpy()
    rows = family.GLOBAL_BATCH
    assert features.shape[:2] == (len(crops), rows)
    views = computed[0].numpy().reshape([-1, rows, features.shape[-1]])
    for place, crop in enumerate(crops):
        view, = (number for number in range(len(views))
                 if (shown[0][number * rows:(number + 1) * rows] == batch["crops"][crop]).all())
        np.testing.assert_array_equal(features[place], views[view])


def test_a_method_that_shows_no_features_is_named():
    with pytest.raises(ValueError, match="this method shows none"):
        OnlineProbe(6, np.zeros(4, np.int64), 3).observe(None, np.arange(2))


@pytest.mark.parametrize("overrides, message", [
    (["Global.knn_interval=1", "DataLoader.Eval=null"], "knn_interval needs DataLoader.Eval"),
    (["Global.eval_during_train=True"], "no classifier to evaluate"),
])
def test_what_cannot_be_evaluated_is_said_before_the_first_step(tmp_path, images, overrides, message):
    with pytest.raises(ValueError, match=message):
        pretraining(tmp_path / "run", images, *overrides)


def test_unlabelled_images_cannot_vote(tmp_path, images):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in images.rglob("*.png"):
        (flat / path.name).write_bytes(path.read_bytes())
    for option in ("Global.knn_interval=1", "Global.online_probe=True"):
        with pytest.raises(ValueError, match="labels"):
            pretraining(tmp_path / option, images, option, f"DataLoader.Train.dataset.root={flat}")
    run = pretraining(tmp_path / "bank", images, "Global.knn_interval=1", f"DataLoader.Train.dataset.root={flat}",
                      (QUERIES % images).replace("Eval", "Bank"))
    assert len(run.evaluations[0].bank.dataset) == 22


@pytest.mark.parametrize("engine", ["paddle", "auto"])
def test_the_engine_of_evaluations_changes_nothing_that_is_trained(tmp_path, images, engine, monkeypatch):
    from passl.inference import forward, trial

    monkeypatch.setattr(forward, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(forward, "recall", lambda: {})
    monkeypatch.setattr(forward, "run_trial", lambda backend, folder, threads: np.savez(
        folder / trial.OUTPUTS, *backend(folder, threads)(np.load(folder / forward.IMAGES))))  # in this process
    watching = "Global.knn_interval=1", "Global.online_probe=True"
    eager = pretraining(tmp_path / "eager", images, *watching)
    other = pretraining(tmp_path / "other", images, *watching, f"Global.engine={engine}")
    built = []
    build = forward.Forward._build
    monkeypatch.setattr(forward.Forward, "_build", lambda *arguments: built.append(build(*arguments)) or built[-1])
    eager.run()
    assert not built
    other.run()
    assert len(built) == 4  # queries and bank, twice
    assert_same_state(state_of(eager), state_of(other))
    for first, second in zip(lines(eager, "eval_metric"), lines(other, "eval_metric")):
        assert first["eval_metric"] == pytest.approx(second["eval_metric"], abs=1.01 / 22)  # a neighbour may be another
