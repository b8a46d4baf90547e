"""SeLa: labels are the transport of the whole data set, optimised when the schedule says so and once only."""
import numpy as np
import paddle
import pytest

import passl
from passl.clustering.balanced_labels import balanced_labels
from passl.config import check, load_config
from passl.inference.from_config import model_of_config
from passl.methods.base import RunFacts
from passl.methods.sela import initial_labels, label_steps
from tests.engine.runs import trainer, write_images
from tests.methods import family
from tests.methods.test_family_resume import config, state_of


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


def passed(method, position=0, batches=lambda: family.batches(0, dtype="float32")):
    method.train()
    method.on_pass(position, batches)
    return method


# ------------------------------------------------------------------------------------------------- when
def test_schedule_is_that_of_the_original():
    """sela.md 1.4: `--epochs 400`, so 401 epochs, of 5005 steps: ImageNet at batch 256."""
    epochs = np.array(label_steps(100, 401 * 5005)) / 5005
    first = [0, 0.041, 0.164, 0.368, 0.655, 1.023, 1.473, 2.005, 2.618, 3.314, 4.091, 4.950]
    np.testing.assert_allclose(epochs[:12], first, atol=1e-3)
    np.testing.assert_allclose(epochs[-5:], [369.23, 377.04, 384.94, 392.92, 400.975], atol=0.03)
    assert (epochs < 1).sum() == 5 and np.diff(epochs).max() == pytest.approx(8.06, abs=0.01)


def test_schedule_spans_any_run():
    assert label_steps(5, 9, power=1.0) == [0, 2, 4, 6, 8]
    assert label_steps(1, 9) == [0] and label_steps(2, 9) == [0, 8] and label_steps(3, 1) == [0, 0, 0]
    assert label_steps(101, 101, power=1.0) == list(range(101))  # rounding of j / 100 moves none


def test_an_optimisation_is_made_once_also_when_its_step_does_not_occur():
    method = family.build("SeLa", label_optimizations=3, label_schedule_power=1.0)  # before steps 0, 3 and 5 of 6
    assert method.label_steps.tolist() == [0, 3, 5]
    made = []
    for position in (0, 1, 2, 4, 5, 5):  # another batch size: 3 is jumped over; a step is tried twice
        if method.due_pass(position):
            made.append(position)
            passed(method, position)
    assert made == [0, 4, 5]


def test_labellings_of_a_run_and_their_crops(tmp_path, images):
    """Five steps an epoch, three epochs: before steps 0, 1, 3, 6, 9 and 14, in and between epochs."""
    run = trainer(config(tmp_path, images, "SeLa"))
    seen, received = [], run.method.on_pass

    def on_pass(position, batches):
        walked = list(batches())
        seen.append((position, run.step, [int(index) for batch in walked for index in batch["index"]],
                     walked[0]["crops"][0].numpy()))
        received(position, lambda: iter(walked))

    run.method.on_pass = on_pass
    trained, step = [], run.make_step
    run.make_step = lambda batches, *rest: trained.append(batches[0]["index"].numpy()) or step(batches, *rest)
    run.run()
    assert [(position, step) for position, step, *_ in seen] == [(n, n) for n in (0, 1, 3, 6, 9, 14)]
    assert run.method.optimizations_done == 6
    for position, _, indices, _ in seen:  # the whole epoch's order, wherever in it the pass lies
        whole = [*run.loader.epoch(position // run.iterations)]
        assert indices == [int(index) for batch in whole for index in batch["index"]]
    for crops, others in ((seen[0][3], seen[1][3]), (seen[1][3], seen[2][3])):  # one epoch, so the same images
        assert (crops != others).any()
    for number, indices in enumerate(trained):  # no pass moves the order of training
        whole = [*run.loader.epoch(number // run.iterations)]
        np.testing.assert_array_equal(indices, whole[number % run.iterations]["index"])


# ------------------------------------------------------------------------------------------------- labels
def test_initial_labels_are_balanced_and_follow_from_the_seed():
    labels = initial_labels([4, 5], 27, seed=3)
    assert [np.bincount(row).tolist() for row in labels] == [[7, 7, 7, 6], [6, 6, 5, 5, 5]]
    np.testing.assert_array_equal(labels, initial_labels([4, 5], 27, seed=3))
    assert (labels != initial_labels([4, 5], 27, seed=4)).any() and (np.diff(labels[0]) != 1).any()
    np.testing.assert_array_equal(family.build("SeLa").labels.numpy(), initial_labels([4, 5], 27, seed=5))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_labels_are_the_balanced_assignment_of_the_features(mode):
    method, twin = family.build("SeLa", label_pass_mode=mode), family.build("SeLa")
    twin.train() if mode == "train" else twin.model.eval()
    rows = [(twin.model.extract_feat(batch["crops"][0]).numpy(), batch["index"].numpy())
            for batch in family.batches(0, dtype="float32")]
    features, indices = (np.concatenate(part) for part in zip(*rows))
    before = method.labels.numpy()
    passed(method)
    labels = method.labels.numpy()
    for head, layer in enumerate(method.model.score_heads()):
        expected = balanced_labels(features @ layer.weight.numpy() + layer.bias.numpy(), exponent=10.0)
        np.testing.assert_array_equal(labels[head, indices], expected.labels)
    dropped = sorted(set(range(family.IMAGES)) - set(indices.tolist()))
    assert len(dropped) == 3
    np.testing.assert_array_equal(labels[:, dropped], before[:, dropped])  # as they were
    assert method.labels_changed == pytest.approx((labels != before)[:, indices].mean()) and method.labels_changed > 0
    assert [count.tolist() for count in method.counts] == [np.bincount(labels[0], minlength=4).tolist(),
                                                           np.bincount(labels[1], minlength=5).tolist()]
    assert method.model.training
    moved = [not np.allclose(value.numpy(), dict(family.build("SeLa").model.named_parameters())[name].numpy())
             for name, value in method.model.named_parameters() if name.endswith("_mean")]
    assert all(moved) if mode == "train" else not any(moved)


def test_an_image_shown_twice_counts_once():
    batches = list(family.batches(0, dtype="float32"))
    alone = passed(family.build("SeLa", label_pass_mode="eval"), batches=lambda: iter(batches))
    twice = passed(family.build("SeLa", label_pass_mode="eval"), batches=lambda: iter([*batches, batches[1]]))
    np.testing.assert_array_equal(alone.labels.numpy(), twice.labels.numpy())


# ------------------------------------------------------------------------------------------------- loss
def test_loss_is_the_mean_cross_entropy_of_all_heads_and_crops():
    method = passed(family.build("SeLa", temperature=0.5))
    batch = next(family.batches(1, dtype="float32"))
    method.model.eval()  # so that a second forward pass gives the same features
    loss, statistics, _ = method.training_step(batch, None)
    features = method.model(batch["crops"])[0].numpy().astype("float64")
    labels = method.labels.numpy()[:, batch["index"].numpy()]
    losses = []
    for head, layer in enumerate(method.model.score_heads()):
        logits = (features @ layer.weight.numpy() + layer.bias.numpy()) / 0.5
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        losses.append(-log_p[np.arange(len(log_p)), np.tile(labels[head], 4)].mean())
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)
    assert float(statistics["clusters_used"]) == 1 and float(statistics["labels_changed"]) > 0
    loss.backward()
    assert all(float(value.grad.abs().max()) > 0 for head in method.model.score_heads() for value in head.parameters())


# ------------------------------------------------------------------------------------------------- resume
@pytest.fixture(scope="module")
def straight_state(tmp_path_factory, images):
    straight = trainer(config(tmp_path_factory.mktemp("straight"), images, "SeLa"))
    straight.run()
    return state_of(straight)


@pytest.mark.parametrize("stop", [3, 4], ids=["before an optimisation", "between two"])
def test_resume_in_the_epoch_neither_repeats_nor_skips_an_optimisation(tmp_path, images, straight_state, stop):
    path = config(tmp_path, images, "SeLa")
    stopped = trainer(path, f"Global.max_train_step={stop}")
    stopped.run()
    resumed = trainer(path, f"Global.checkpoint={stopped.folder / 'latest'}")
    made, received = [], resumed.method.on_pass
    resumed.method.on_pass = lambda position, batches: made.append(position) or received(position, batches)
    resumed.run()
    assert made == [position for position in (0, 1, 3, 6, 9, 14) if position >= stop]
    found = state_of(resumed)
    assert sorted(found) == sorted(straight_state)
    for name, value in straight_state.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.dist
def test_passes_in_an_epoch_do_not_disturb_the_workers(tmp_path, images, straight_state):
    run = trainer(config(tmp_path, images, "SeLa"), "DataLoader.Train.loader.num_workers=2")
    run.run()
    for name, value in state_of(run).items():
        np.testing.assert_array_equal(value, straight_state[name], err_msg=name)


def test_labels_of_other_data_are_refused():
    state = family.build("SeLa").shared_state()
    state["labels"] = state["labels"][:, :20]
    with pytest.raises(ValueError, match="labels 20 images for 2 heads, this run has 27 and 2"):
        family.build("SeLa").load_shared_state(state)


# ------------------------------------------------------------------------------------------------- settings, files
@pytest.mark.parametrize("settings, message", [
    ({"label_optimizations": 0}, "Model.label_optimizations is 0: without any, the labels stay random"),
    ({"nmb_prototypes": [3, 25]}, "24 images of an epoch cannot fill 25 clusters: lower Model.backbone.nmb_prototypes"),
    ({"nmb_prototypes": []}, "Model.backbone.nmb_prototypes is .*at least 2 clusters"),
    ({"nmb_prototypes": [4, 1]}, "at least 2 clusters for each"),
    ({"temperature": 0.0}, "Model.temperature is 0.0 and must be above 0: 1.0 is usual"),
    ({"exponent": -1.0}, "Model.exponent is -1.0 and must be above 0: 25.0 is usual"),
    ({"label_schedule_power": 0.0}, "Model.label_schedule_power is 0.0 and must be above 0: 2.0 is usual"),
    ({"label_pass_mode": "test"}, "label_pass_mode: 'test' is not one of train, eval"),
    ({"sinkhorn_tolerance": 0.0}, "Model.sinkhorn_tolerance is 0.0"),
    ({"sinkhorn_tolerance_mode": "max"}, "sinkhorn_tolerance_mode: 'max' is not one of mean, sum"),
    ({"sinkhorn_max_iterations": 0}, "Model.sinkhorn_max_iterations is 0"),
])
def test_refused_before_the_first_step(settings, message):
    with pytest.raises(ValueError, match=message):
        family.build("SeLa", **settings)


def test_a_projection_head_is_refused():
    backbone = {"type": "resnet18", "output_dim": 8, "normalize": True, "nmb_prototypes": 4}
    with pytest.raises(ValueError, match="Model.backbone.output_dim and Model.backbone.normalize would have no effect"):
        family.METHODS.build({"name": "SeLa", "backbone": backbone},
                             run=RunFacts(dataset_size=27, iterations_per_epoch=27))


def test_advice(tmp_path, images):
    path = config(tmp_path, images, "SeLa")
    run = trainer(path, "Model.label_optimizations=30")
    few, shared = map(str, run.findings)  # nothing about normalize: there is no embedding
    assert "nmb_prototypes 6 leaves 3.7 of the 22 training images" in few
    assert "Model.label_optimizations 30 fall on 15 steps of this run" in shared


def test_a_trained_network_is_read_back_and_converted(tmp_path, images):
    path = config(tmp_path, images, "SeLa")
    run = trainer(path, "Global.epochs=1")
    run.run()
    pixels = paddle.ones([2, 3, 16, 16])
    run.method.model.eval()
    features = run.method.model.extract_feat(pixels).numpy()
    weights = run.folder / "latest.pdparams"
    rebuilt = model_of_config(check(load_config(str(path))), weights)
    np.testing.assert_array_equal(rebuilt.extract_feat(pixels).numpy(), features)
    np.testing.assert_array_equal(rebuilt(pixels)[1][1].numpy(), run.method.model(pixels)[1][1].numpy())
    np.testing.assert_array_equal(passl.get_model(run.folder).extract_feat(pixels).numpy(), features)  # the trunk

    from passl.weights import convert, read, recognise

    assert recognise(read(weights))[1].kind == "SeLa pretraining"
    state = convert(read(weights), "torch").state
    assert state["top_layer1.weight"].shape == (6, 32) and state["top_layer0.bias"].shape == (4,)
