"""DeepCluster-v2 against the PyTorch original, over one and two ranks, and its behaviour on awkward data."""
import numpy as np
import paddle
import pytest

from passl.methods.base import RunFacts
from passl.methods.deepcluster_v2 import DeepClusterV2
from passl.optim.groups import GroupedOptimizer
from tests.distributed.ranks import run_ranks
from tests.golden import formula
from tests.golden.networks import fill, load, network, torch_name
from tests.methods import family
from tests.methods.trajectory import UnbiasedVariance, check_final, check_losses


def first_rows(method):
    """Start k-means from the first rows of rank 0's bank, as the reference run did."""
    method.initial_centroids = lambda head, embeddings, epoch: embeddings[:len(method.counts[head])]
    return method


def build(case, world_size, dtype):
    net = case["net"]
    paddle.set_default_dtype(dtype)
    try:
        method = DeepClusterV2({"type": "resnet18", "output_dim": net["feat_dim"], "nmb_prototypes": case["K"]},
                               temperature=case["temperature"], run=RunFacts(
                                   batch_size=case["bs_per_rank"], world_size=world_size,
                                   iterations_per_epoch=case["steps_per_epoch"], dataset_size=case["images"]))
        trained = network(net["block"], net["layers"], net["hidden"], net["feat_dim"], case["K"])
    finally:
        paddle.set_default_dtype("float32")
    method.model.res_model = fill(trained, case["seed"])
    for head in method.heads():
        head.weight.stop_gradient = True
    return first_rows(method)


def batches(case, dtype, epoch, first_step, rank, world_size):
    """This rank's batches of one epoch as the reference drew them."""
    order = np.random.RandomState(500 + 13 * case["seed"] + epoch).permutation(case["images"])[rank::world_size]
    size = case["bs_per_rank"]
    for number in range(case["steps_per_epoch"]):
        crops = formula.crops(first_step + number, rank, size, case["crops"], case["seed"])
        yield {"crops": [paddle.to_tensor(crop.astype(dtype)) for crop in crops],
               "index": paddle.to_tensor(order[number * size:(number + 1) * size])}


def trajectory(name, dtype, rank=0, world_size=1, wrap=lambda model: model):
    """Losses of this rank, labels of every epoch and head, norm of the banks and final tensors by PyTorch name."""
    case = load(name)["case"]
    method = build(case, world_size, dtype)
    unbiased = UnbiasedVariance(method.model)
    method.distribute(wrap)
    method.train()
    optimizer = GroupedOptimizer(
        {"name": "MomentumLARC", "momentum": 0.9, "weight_decay": case["wd"],
         "lr": {"name": "Constant", "learning_rate": 0.0}}, method.trainable_parameters(), 1, 1)
    losses, labels, step = [], [], 0
    for epoch in range(case["epochs"]):
        if method.due_pass(step):
            method.on_pass(step, lambda: batches(case, dtype, 0, 1000, rank, world_size))
        method.on_epoch_start(epoch)
        labels.append(method.labels.numpy())
        for batch in batches(case, dtype, epoch, step, rank, world_size):
            for inner in optimizer.optimizers:
                inner.set_lr(case["lr"][step])
            loss, *_ = method.training_step(batch, method.plan([batch])[0])
            loss.backward()
            method.after_backward(step)
            optimizer.clip_gradients()
            for inner in optimizer.optimizers:
                inner.step()
            optimizer.clear_grad()
            method.after_step(step)
            losses.append(float(loss))
            step += 1
    final = {torch_name(key): value.numpy() for key, value in method.model.res_model.state_dict().items()}
    for key, value in unbiased.values.items():
        final[torch_name(key.replace("res_model.", "") + "._variance")] = value
    norms = [float(np.linalg.norm(method.bank.embeddings(crop).numpy())) for crop in range(2)]
    return {"losses": np.array(losses), "labels": np.array(labels), "bank": np.array(norms), **final}


PRECISIONS = [("float64", "fp64"), ("float32", "fp32")]


@pytest.mark.parametrize("dtype, suffix", PRECISIONS)
def test_trajectory_equals_reference(dtype, suffix):
    golden = load(name := f"deepclusterv2_w1_s0_{suffix}.json")
    found = trajectory(name, dtype)
    np.testing.assert_array_equal(found["labels"], golden["assignments_per_epoch"])
    check_losses(found["losses"], golden["losses_per_rank"][0], name)
    check_final(found, golden, name)


def golden_rank(name, dtype):
    from passl import distributed

    return trajectory(name, dtype, distributed.rank(), distributed.world_size(), distributed.wrap)


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("dtype, suffix", PRECISIONS)
def test_two_ranks_equal_reference(tmp_path, dtype, suffix):
    golden = load(name := f"deepclusterv2_w2_s0_{suffix}.json")
    for run in run_ranks(golden_rank, 2, tmp_path, timeout=240, name=name, dtype=dtype):
        np.testing.assert_array_equal(run.result["labels"], golden["assignments_per_epoch"])
        check_losses(run.result["losses"], golden["losses_per_rank"][run.rank], name)
        if run.rank == 0:
            check_final(run.result, golden, name)


# ---------------------------------------------------------------------------------------------- behaviour
def started(**overrides):
    """A method of the tiny family after its memory pass and first clustering."""
    method = family.build("DeepClusterV2", **overrides)
    method.train()
    method.on_pass(0, lambda: family.batches(0, dtype="float32"))
    method.on_epoch_start(0)
    return method


def test_prototypes_are_the_centroids_and_get_no_gradient():
    method = started()
    for head, count in zip(method.heads(), (4, 5, 6)):
        weight = head.weight.numpy()
        assert weight.shape == (8, count)
        np.testing.assert_allclose(np.linalg.norm(weight, axis=0), 1, rtol=1e-6)
        assert all(head.weight is not parameter for _, parameter in method.trainable_parameters())
    labels = method.labels.numpy()
    position = {index: row for row, index in enumerate(method.bank.indices)}
    for head, crop in enumerate([0, 1, 0]):  # heads cycle the banks of the assignment crops
        scores = method.bank.embeddings(crop).numpy() @ method.heads()[head].weight.numpy()
        assert all(labels[head, index] == scores[row].argmax() for index, row in position.items())


def test_images_never_seen_have_no_label_and_no_part_in_the_loss():
    method = started()
    labels = method.labels.numpy()
    unseen = np.flatnonzero((labels == -100).all(0))
    assert len(unseen) == 3 and not set(unseen) & set(method.bank.indices)
    seen = method.bank.indices[:4]
    mixed = np.concatenate([seen, unseen])
    method.model.eval()

    def loss(indices):
        batch = {"crops": family.crops(1, indices, "float32"), "index": paddle.to_tensor(indices)}
        value, statistics, _ = method.training_step(batch, method.plan([batch])[0])
        return float(value), float(statistics["labelled"])

    assert loss(mixed) == (pytest.approx(loss(seen)[0], rel=1e-5), pytest.approx(4 / 7))
    assert loss(unseen) == (0.0, 0.0)


@pytest.mark.parametrize("cuts", [(4, 8), (5, 10)], ids=["equal", "a smaller last one"])
def test_micro_batches_give_the_loss_of_the_whole_batch(cuts):
    method = started()
    method.model.eval()
    indices = np.append(method.bank.indices[:10], np.flatnonzero(method.labels.numpy()[0] == -100)[:2])
    parts = np.split(indices, cuts)

    def batch(of):
        return {"crops": family.crops(1, of, "float32"), "index": paddle.to_tensor(of)}

    whole = float(method.training_step(batch(indices), method.plan([batch(indices)])[0])[0])
    assert 0 < (method.labels.numpy()[0, indices] == -100).sum() < 3  # not the same number in every part
    split = [batch(part) for part in parts]
    losses = [float(method.training_step(one, plan)[0]) for one, plan in zip(split, method.plan(split))]
    assert np.average(losses, weights=[len(part) for part in parts]) == pytest.approx(whole, rel=1e-5)


def test_a_step_that_is_left_out_leaves_no_rows():
    method = started()
    batch = next(family.batches(0, dtype="float32"))
    method.training_step(batch, method.plan([batch])[0])  # its loss was not finite: no after_step
    method.training_step(batch, method.plan([batch])[0])
    method.after_step(1)
    assert method.bank.indices.tolist() == batch["index"].tolist()


def test_clustering_reads_the_epoch_before_and_repeats_exactly():
    method = started()
    first = method.labels.numpy()
    method.on_epoch_start(0)  # as when resuming from the checkpoint between two epochs
    np.testing.assert_array_equal(method.labels.numpy(), first)
    for step, batch in enumerate(family.batches(4, dtype="float32")):
        method.training_step(batch, method.plan([batch])[0])
        method.after_step(step)
    method.on_epoch_start(1)
    assert set(np.flatnonzero(method.labels.numpy()[0] >= 0)) == set(method.bank.indices)
    assert (method.labels.numpy() != first).any()


def test_equal_embeddings_fall_into_one_cluster_and_empty_clusters_keep_a_centroid():
    method = family.build("DeepClusterV2")
    method.bank.push(paddle.ones([2, 24, 8]), np.arange(24))
    method.on_epoch_start(0)
    for labels, count in zip(method.labels.numpy()[:, :24], method.counts):  # which one is up to rounding
        assert len(set(labels)) == 1 and sorted(count)[-2:] == [0, 24]
    np.testing.assert_allclose(np.linalg.norm(method.heads()[1].weight.numpy(), axis=0), 1, rtol=1e-6)


def test_nan_in_the_bank_is_an_error():
    method = family.build("DeepClusterV2")
    embeddings = np.ones((2, 24, 8), np.float32)
    embeddings[1, 7] = np.nan
    method.bank.push(paddle.to_tensor(embeddings), np.arange(24))
    with pytest.raises(FloatingPointError, match="NaN"):
        method.on_epoch_start(0)


def test_labels_of_other_data_are_refused():
    method = started()
    state = method.shared_state()
    state["labels"] = state["labels"][:, :20]
    with pytest.raises(ValueError, match="labels 20 images for 3 heads, this run has 27 and 3"):
        method.load_shared_state(state)
