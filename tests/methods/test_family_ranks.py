"""Every method on two and three processes equals one process on the joined data: labels, losses, gradients, weights."""
import numpy as np
import pytest

from passl.methods import epoch_labels
from passl.methods.epoch_labels import EpochLabels
from passl.registry import METHODS
from tests.distributed.ranks import run_ranks
from tests.methods.family import MODELS, train


def train_here(models):
    epoch_labels.GATHERED_BYTES = 200  # a few rows of soft labels at a time
    return {f"{model}/{name}": value for model in models for name, value in train(model).items()}


# Three ranks show that nothing counts on a power of two: a model with a bank, one with soft labels, one with a
# schedule, one that mixes. Variants of a method run there only.
VARIANTS = ["SeLaV2 soft", "UnMixSwAV reference"]


@pytest.mark.dist
@pytest.mark.parametrize("world_size, models", [
    (2, [model for model in MODELS if model not in VARIANTS]),
    pytest.param(3, ["DeepClusterV2", "SeLa", *VARIANTS], marks=pytest.mark.slow)], ids=["2 ranks", "3 ranks"])
def test_ranks_equal_one_process_on_the_joined_data(tmp_path, world_size, models):
    runs = run_ranks(train_here, world_size, tmp_path, timeout=600, models=models)
    for model in models:
        alone = train(model, mixing_ranks=world_size)
        shares = [{name.split("/", 1)[1]: value for name, value in run.result.items() if name.startswith(model + "/")}
                  for run in runs]
        np.testing.assert_allclose(np.mean([share["losses"] for share in shares], 0), alone["losses"], atol=1e-6,
                                   err_msg=model)
        for share in shares:
            np.testing.assert_array_equal(share["labels"], alone["labels"], err_msg=model)
            for name in set(alone) - {"losses", "labels"}:
                np.testing.assert_allclose(share[name], alone[name], rtol=1e-5, atol=1e-6, err_msg=f"{model}: {name}")
        if issubclass(METHODS.get(model.split()[0]), EpochLabels):
            assert (alone["labels"] == -100).any(axis=(1, 2)).all()  # unlabelled images were among those trained on
