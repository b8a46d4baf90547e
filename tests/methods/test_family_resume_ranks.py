"""Methods with labels stop in the middle of an epoch on one or two ranks and go on on as many, or others."""
from pathlib import Path

import numpy as np
import pytest

from tests.distributed.ranks import run_ranks
from tests.engine.runs import trainer, write_images
from tests.methods.test_family_resume import config, state_of

MODELS = ("DeepClusterV2", "SeLaV2", "SeLa")  # SeLa has labels but no bank
STOP = "Global.max_train_step=7"  # five steps an epoch of 22 images; three epochs


def start(root, model, name, ranks, *overrides):
    """A run in a folder of its own, four images a step over all ranks; it goes on from the checkpoint of a `name`."""
    return trainer(Path(root) / model / "run.yaml", f"Global.output_dir={root}/{model}/{name}",
                   "Optimizer.lr.learning_rate=0.05",  # rounding differs by the number of ranks and grows
                   f"DataLoader.Train.sampler.batch_size={4 // ranks}", *overrides)


def checkpoint(root, model, name):
    return f"Global.checkpoint={root}/{model}/{name}/{model}/latest"


def outcome(run):
    """What is equal whatever the number of ranks: labels, weights, and the bank by image."""
    bank = run.method.rank_state().get("bank", {})
    return {"labels": run.method.labels.numpy(), **{name: bank[name] for name in ("indices", "embeddings") if bank},
            **{name: value.numpy() for name, value in run.method.model.state_dict().items()}}


def on_two_ranks(root):
    results = {}
    for model in MODELS:
        straight = start(root, model, "two", 2)
        straight.run()
        start(root, model, "two, stopped", 2, STOP).run()
        resumed = start(root, model, "two, resumed", 2, checkpoint(root, model, "two, stopped"))
        assert resumed.step == 7
        resumed.run()
        expected, found = state_of(straight), state_of(resumed)
        assert sorted(found) == sorted(expected)
        for name, value in expected.items():  # bit for bit
            np.testing.assert_array_equal(found[name], value, err_msg=f"{model}: {name}")
        widened = start(root, model, "widened", 2, checkpoint(root, model, "one, stopped"))
        before = outcome(widened)
        widened.run()
        for when, values in {"straight": outcome(straight), "dealt": before, "widened": outcome(widened)}.items():
            results.update({f"{model}/{when}/{name}": value for name, value in values.items()})
    return results


def shares(runs, prefix):
    """What each rank handed back under `prefix`."""
    return [{name[len(prefix):]: value for name, value in run.result.items() if name.startswith(prefix)}
            for run in runs]


def by_image(parts):
    """{image: embeddings [A, D]} of the banks of all ranks."""
    return {int(index): share["embeddings"][:, row] for share in parts
            for row, index in enumerate(share.get("indices", ()))}


def assert_same_outcome(found, expected, model):
    for name, value in expected[0].items():
        if name == "labels":
            np.testing.assert_array_equal(found[0][name], value, err_msg=model)
        elif name not in ("indices", "embeddings"):
            np.testing.assert_allclose(found[0][name], value, rtol=1e-3, atol=1e-4, err_msg=f"{model}: {name}")
    banks, wanted = by_image(found), by_image(expected)
    assert sorted(banks) == sorted(wanted)
    for image, rows in wanted.items():
        np.testing.assert_allclose(banks[image], rows, atol=1e-3, err_msg=f"{model}: image {image}")


@pytest.mark.dist
@pytest.mark.slow
def test_it_goes_on_on_the_same_and_on_another_number_of_ranks(tmp_path):
    images, alone = write_images(tmp_path / "images"), {}
    for model in MODELS:
        (tmp_path / model).mkdir()
        config(tmp_path / model, images, model)
        start(tmp_path, model, "one, stopped", 1, STOP).run()
        alone[model] = start(tmp_path, model, "one", 1)
        alone[model].run()
    runs = run_ranks(on_two_ranks, 2, tmp_path, timeout=300, root=str(tmp_path))
    for model in MODELS:
        stopped = start(tmp_path, model, "read", 1, checkpoint(tmp_path, model, "one, stopped"))
        saved = outcome(stopped)
        for rank, share in enumerate(shares(runs, f"{model}/dealt/")):
            np.testing.assert_array_equal(share["labels"], saved["labels"])
            if model == "SeLa":
                continue
            # Every second row, none lost.
            np.testing.assert_array_equal(share["indices"], saved["indices"][rank::2])
            np.testing.assert_array_equal(share["embeddings"], saved["embeddings"][:, rank::2])
        assert_same_outcome(shares(runs, f"{model}/widened/"), [outcome(alone[model])], model)

        narrowed = start(tmp_path, model, "narrowed", 1, checkpoint(tmp_path, model, "two, stopped"))
        narrowed.run()
        assert_same_outcome([outcome(narrowed)], shares(runs, f"{model}/straight/"), model)
