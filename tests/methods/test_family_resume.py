"""Every method resumes exactly, at the end of an epoch and in its middle, memory banks and labels included."""
import numpy as np
import pytest

from passl.engine.batches import on_device
from passl.methods.epoch_labels import EpochLabels
from tests.engine.runs import CONFIG, IMAGES, trainer, write_images

BACKBONE = "{type: resnet10, normalize: True, hidden_mlp: 8, output_dim: 8, stem: small, base_channels: 4, " \
           "nmb_prototypes: %s}"
MODELS = {
    "DeepClusterV2": "{name: DeepClusterV2, backbone: %s}" % (BACKBONE % [4, 6]),
    "SeLaV2": "{name: SeLaV2, freeze_prototypes_niters: 3, backbone: %s}" % (BACKBONE % [4, 6]),
    "SeLaV2 soft": "{name: SeLaV2, assignment: soft, freeze_prototypes_niters: 3, backbone: %s}" % (BACKBONE % 6),
    "SeLa": "{name: SeLa, label_optimizations: 6, exponent: 10.0, sinkhorn_tolerance: 1e-3, sinkhorn_tolerance_mode: "
            "mean, backbone: {type: resnet10, stem: small, base_channels: 4, nmb_prototypes: [4, 6]}}",
    "UnMixSwAV": "{name: UnMixSwAV, queue_length: 8, epoch_queue_starts: 1, backbone: %s}" % (BACKBONE % 6),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


def config(folder, images, model):
    text = CONFIG.format(images=images, output=folder / "output", batch=4).replace("num_crops: [2, 1]",
                                                                                   "num_crops: [2, 2]")
    start, end = text.index("Model:"), text.index("Optimizer:")
    path = folder / "run.yaml"
    path.write_text(text[:start] + f"Model: {MODELS[model]}\n" + text[end:])
    return path


def flatten(tree, prefix=""):
    if isinstance(tree, dict):
        return {name: value for key, part in tree.items() for name, value in flatten(part, f"{prefix}{key}/").items()}
    return {prefix: np.asarray(tree)}


def state_of(run):
    return flatten({"weights": {name: value.numpy() for name, value in run.method.model.state_dict().items()},
                    "optimizer": run.optimizer.state_dict(), "shared": run.method.shared_state(),
                    "rank": run.method.rank_state(), "position": list(run.progress.state_dict().values())[:4]})


@pytest.mark.parametrize("model", MODELS)
def test_resume_equals_the_uninterrupted_run(tmp_path, images, model):
    straight = trainer(config(tmp_path, images, model))
    straight.run()
    expected = state_of(straight)
    for stop_at in (5, 8):  # at the end of the first epoch; in the middle of the second
        trainer(config(tmp_path, images, model), f"Global.max_train_step={stop_at}", "Global.overwrite=True").run()
        resumed = trainer(config(tmp_path, images, model), f"Global.checkpoint={straight.folder / 'latest'}")
        assert resumed.step == stop_at
        resumed.run()
        found = state_of(resumed)
        assert sorted(found) == sorted(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=f"{model}, stopped at {stop_at}: {name}")
    if isinstance(straight.method, EpochLabels):
        labels = straight.method.labels.numpy()
        assert labels.shape[1] == IMAGES and (labels == -100).sum(1).tolist() == [2] * len(labels)


@pytest.mark.parametrize("model", ["DeepClusterV2", "SeLaV2"])
def test_memory_pass_has_the_order_of_the_first_epoch_and_crops_of_its_own(tmp_path, images, model):
    run = trainer(config(tmp_path, images, model))
    passed, received = [], run.method.on_pass
    run.method.on_pass = lambda position, batches: received(
        position, lambda: (passed.append(batch) or batch for batch in batches()))
    run.run()
    assert len(passed) == run.iterations  # once, before the first epoch
    for epoch in range(run.epochs):
        trained = [on_device(batch, run.loader.normalizer) for batch in run.loader.epoch(epoch)]
        same_order = all((a["index"] == b["index"]).all() for a, b in zip(passed, trained))
        assert same_order == (epoch == 0)
        shown = {int(index): crop for batch in trained for index, crop in zip(batch["index"], batch["crops"][0])}
        for batch in passed:
            for index, crop in zip(batch["index"], batch["crops"][0]):
                assert int(index) not in shown or (crop != shown[int(index)]).any()
