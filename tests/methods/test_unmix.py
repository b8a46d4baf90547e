"""Un-Mix: each loss term against the published code, the corrected rule against its definition, and the draws."""
import numpy as np
import paddle
import pytest

from passl.clustering.sinkhorn import sinkhorn
from passl.methods.base import RunFacts
from passl.methods.swav import swapped_loss
from passl.methods.unmix import Mixture, UnMixSwAV, draw_mixture, mix, own_share
from tests.engine.runs import trainer, write_images
from tests.golden import formula
from tests.golden.networks import fill, load, network
from tests.methods.test_family_resume import config
from tests.methods.test_swav import scores

GOLDEN = load("unmix_s0.json")


def build(compat="paper", prototypes=30, **options):
    run = RunFacts(**{key: options.pop(key) for key in ("batch_size", "crop_count", "seed") if key in options})
    return UnMixSwAV({"type": "resnet10", "stem": "small", "base_channels": 4, "output_dim": 16, "normalize": True,
                      "nmb_prototypes": prototypes}, unmix_compat=compat, run=run, **options)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['mode']} {case['lam']}")
def test_reference_mode_equals_the_published_code(case):
    method = build("reference")
    method.model.normalize_prototypes = lambda: None  # these numbers were taken on the raw weights
    net = GOLDEN["net"]
    method.model.res_model = fill(network(net["block"], net["layers"], net["hidden"], net["feat_dim"], net["K"]))
    boxes = [tuple(box) for box in case["boxes_rows_cols"]] or None
    method.draw = lambda sizes: Mixture(case["lam"], boxes)
    method.train()
    crops = formula.crops(0, 0, GOLDEN["bs"], GOLDEN["crops"], GOLDEN["seed"])
    loss, parts, _ = method.training_step({"crops": [paddle.to_tensor(crop) for crop in crops]}, None)
    for name in ("loss_original", "loss_mixture", "loss_mixture_reversed"):
        assert float(parts[name]) == pytest.approx(case[name], rel=2e-5), name
    assert float(loss) == pytest.approx(case["loss_total"], rel=2e-5)


@pytest.mark.parametrize("case", [c for c in load("reference_functions.json")["swapped_loss_B4_K3"]
                                  if c["crop_offsets"] == [1.1, 0.3]])
def test_reference_mode_reverses_the_targets_of_crop_0_only(case):
    """The golden single terms: crop offset 1.1 stands for the mixture."""
    method = build("reference", 3, crops_for_assign=case["crops_for_assign"])
    views = paddle.to_tensor(np.stack([scores(4, 3, offset) for offset in (9.9, 0.3, 1.1)]))
    targets = sinkhorn(paddle.stack([views[view] for view in method.assigned_views])).soft
    _, parts = method.loss(views, targets, Mixture(0.5, None))
    name = "loss_mixture_reversed" if case["reverse_unmix"] else "loss_mixture"
    assert float(parts[name]) == pytest.approx(case["loss"], abs=6e-6)  # as in test_swav.py


def test_paper_mode_is_the_intended_rule():
    """Two crops: w (l(z_m, q_s) + l(z_s, q_m)) + (1 - w) (l(z_rm, q_s) + l(z_s, q_rm)), rm the reversed mixture."""
    method = build("paper", 3)
    views = paddle.to_tensor(np.stack([scores(4, 3, offset) for offset in (0.0, 0.3, 1.1)]))
    targets = sinkhorn(paddle.stack([views[view] for view in method.assigned_views])).soft
    total, parts = method.loss(views, targets, Mixture(0.3, None))
    t, s, m = views
    terms = []
    for pair in ([t, s], [m, s], [paddle.flip(m, [0]), s]):
        stacked = paddle.stack(pair)
        terms.append(float(swapped_loss(stacked, sinkhorn(stacked).soft, [0, 1])))
    assert [float(part) for part in parts.values()] == pytest.approx(terms, rel=1e-6)
    assert float(total) == pytest.approx(terms[0] + 0.3 * terms[1] + 0.7 * terms[2], rel=1e-6)


@pytest.mark.parametrize("compat", ["paper", "reference"])
@pytest.mark.parametrize("assigned", [[0, 1], [1], [2, 0]])
def test_multi_crop_terms_equal_separate_sinkhorns(compat, assigned):
    """Sinkhorn on all views at once equals one run for each term, as the published code makes."""
    method = build(compat, 5, crops_for_assign=assigned)
    views = paddle.to_tensor(np.stack([scores(6, 5, 0.37 * view) for view in range(6)]))
    targets, _ = method.assign(views, views)
    total, _ = method.loss(views, targets, Mixture(0.4, None))
    plain = [views[0], views[1], views[3], views[4]]
    mixed = [views[2], views[1], views[5], views[4]]
    flipped = [paddle.flip(mixed[0], [0]), mixed[1], paddle.flip(mixed[2], [0]), mixed[3]]

    def term(shown, labelled):
        soft = sinkhorn(paddle.stack([labelled[crop] for crop in assigned])).soft
        return float(swapped_loss(paddle.stack(shown), soft, assigned))

    last = term(flipped, flipped) if compat == "paper" else term(mixed, [flipped[0], *mixed[1:]])
    assert float(total) == pytest.approx(term(plain, plain) + 0.4 * term(mixed, mixed) + 0.6 * last, rel=1e-6)


@pytest.mark.parametrize("batch", [1, 4, 5])
def test_mix_blends_or_pastes_the_partner_from_the_reversed_batch(batch):
    crop = paddle.to_tensor(np.random.RandomState(0).standard_normal((batch, 3, 8, 6)).astype("float32"))
    values, partner = crop.numpy(), crop.numpy()[::-1]
    np.testing.assert_allclose(mix(crop, Mixture(0.25, None), 0), 0.25 * values + 0.75 * partner, rtol=1e-6)
    pasted = values.copy()
    pasted[:, :, 1:5, 2:6] = partner[:, :, 1:5, 2:6]
    np.testing.assert_array_equal(mix(crop, Mixture(0.5, [(0, 0, 8, 6), (1, 2, 5, 6)]), 1), pasted)
    np.testing.assert_array_equal(mix(crop, Mixture(1.0, [(3, 3, 3, 3)]), 0), values)  # weight 1: an empty box


SIZES = [(224, 224), (96, 96), (96, 96), (96, 96)]


def draws(compat, probability=0.0, count=3000):
    return [draw_mixture(np.random.default_rng([7, step]), SIZES, probability, 1.0, compat) for step in range(count)]


def test_paper_mode_has_one_box_and_its_true_share():
    for found in draws("paper", count=300):
        assert found.weight == own_share(found.boxes[0], 224, 224)
        assert found.boxes[1] == found.boxes[2] == found.boxes[3]
        np.testing.assert_allclose(np.array(found.boxes[1]) / 96, np.array(found.boxes[0]) / 224, atol=0.5001 / 96)
    assert np.mean([found.weight for found in draws("paper")]) == pytest.approx(0.68, abs=0.02)


def test_reference_mode_drifts_as_the_published_code():
    """Mean share after each pair of 2x224 + 6x96 with beta 1: 0.68, 0.78, 0.84, 0.88."""
    found = draws("reference")
    shares = [[own_share(box, *size) for box, size in zip(one.boxes, SIZES)] for one in found]
    np.testing.assert_allclose(np.mean(shares, 0), [0.68, 0.78, 0.84, 0.88], atol=0.02)
    assert all(one.weight == share[-1] for one, share in zip(found, shares))


def test_share_of_global_mixtures():
    found = draws("paper", 0.3)
    blended = [one for one in found if one.boxes is None]
    assert len(blended) / len(found) == pytest.approx(0.3, abs=0.03)
    assert np.mean([one.weight for one in blended]) == pytest.approx(0.5, abs=0.03)


def test_draws_follow_seed_and_step_alone():
    first, second = build(seed=3), build(seed=3)
    np.random.seed(1)
    one = first.draw(SIZES)
    np.random.seed(2)
    assert second.draw(SIZES) == one
    first.before_step(1)
    assert first.draw(SIZES) != one
    second.before_step(1)
    assert second.draw(SIZES) == first.draw(SIZES)


def crops(batch=4, sizes=(16, 16, 12, 12)):
    return [paddle.to_tensor(crop) for crop in formula.crops(0, 0, batch, [(side, 1) for side in sizes])]


def test_queue_holds_original_embeddings_and_joins_both_assignments():
    method = build("paper", 6, queue_length=4, batch_size=4, epoch_queue_starts=0)
    method.on_epoch_start(0)
    method.train()
    method.training_step({"crops": crops()}, None)
    assert method.queue.usable
    entries = method.queue.entries.numpy()
    views, _ = method.views({"crops": crops()})
    embedding, _ = method.model(views)
    np.testing.assert_allclose(entries, embedding.numpy().reshape(6, 4, -1)[:2], atol=1e-5)
    loss, *_ = method.training_step({"crops": crops()}, None)
    assert np.isfinite(float(loss))


def test_any_batch_size_up_to_one_image():
    method = build("paper", 6)
    method.model.eval()
    for batch in (1, 3):
        assert np.isfinite(float(method.training_step({"crops": crops(batch)}, None)[0]))


@pytest.mark.parametrize("options, message", [
    (dict(crop_count=3), "crops in pairs.* 3: make every entry even"),
    (dict(compat="reference", queue_length=8, batch_size=4), "fails as soon as its queue is used"),
    (dict(compat="fixed"), "unmix_compat: 'fixed' is not one of paper, reference"),
    (dict(unmix_prob=1.5), "between 0 and 1"),
    (dict(unmix_beta=0.0), "above 0"),
    (dict(sinkhorn_iterations=0), "Model.sinkhorn_iterations is 0 and must be above 0: 3 is usual"),
])
def test_refused_settings(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize("sizes", [(16, 16, 12), (16, 12, 12, 12)])
def test_crops_that_make_no_pairs_are_named(sizes):
    with pytest.raises(ValueError, match=r"pairs of one size, got sides \[16, "):
        build().views({"crops": crops(sizes=sizes)})


def test_every_step_has_a_mixture_of_its_own_also_after_one_left_out(tmp_path):
    """A step that is left out for a NaN still counts: the next one must not mix as it did."""
    path = config(tmp_path, write_images(tmp_path / "images"), "UnMixSwAV")
    run = trainer(path, "Global.max_train_step=4", "Global.max_nonfinite_steps=1")
    step, draw, mixtures = run.method.training_step, run.method.draw, []

    def training_step(batch, plan):
        loss, statistics, _ = step(batch, plan)
        return (loss * float("nan") if run.step == 1 else loss), statistics

    run.method.draw = lambda sizes: mixtures.append(draw(sizes)) or mixtures[-1]
    run.method.training_step = training_step
    run.run()
    sizes = [(16, 16), (12, 12)]
    seed = run.run_facts.seed
    assert mixtures == [draw_mixture(np.random.default_rng([seed, step]), sizes, 0.5, 1.0) for step in range(4)]
