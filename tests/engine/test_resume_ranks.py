"""Two real processes: the schedule on another number of ranks, statistics of their own, ranks that differ."""
from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from passl import distributed
from passl.config import Config
from passl.engine import resume
from passl.engine.callbacks import Callback
from passl.engine.resume import differences, shared_settings
from passl.engine.trainer import Trainer
from tests.distributed.ranks import run_ranks
from tests.engine.runs import assert_same_state, state_of, trainer, write_config, write_images
from tests.engine.test_ranks import latest, log_lines, separate
from tests.engine.test_resume import rates_and_freeze

IMAGES = 24
FREEZE = ["Model.freeze_prototypes_epochs=1.5"]  # of 3 epochs with 6 iterations on one rank, 3 on two
OWN = ["DistributedStrategy.sync_batch_norm=none", "Model.freeze_prototypes_niters=2"]


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, write_images(tmp_path / "images", IMAGES))


def test_differences_name_the_odd_rank_and_the_value():
    views = [{"images": 10, "Global.seed": "1"}, {"images": 11, "Global.seed": "1"}, {"images": 10}]
    assert differences(views) == ["rank 1: images is 11, elsewhere 10", "rank 2: Global.seed is absent, elsewhere 1"]
    assert differences([{"images": 10}, {"images": 11}]) == ["rank 1: images is 11, elsewhere 10"]
    assert not differences([{"images": 10}, {"images": 10}])


def test_places_of_images_may_differ_from_machine_to_machine():
    def settings(place):
        paths = {"root": place, "image_root": place, "txt_file_name": f"{place}/list.txt", "cls_label_path": place}
        return shared_settings(Config({"DataLoader": {"Train": {"dataset": {"name": "ImageList", **paths}}}}))

    assert settings("/here") == settings("/there") == {"DataLoader.Train.dataset.name": "'ImageList'"}


def noted_losses(run):
    """Two lists that fill while it runs: the loss of this rank's own images, and the one that callbacks are told."""
    own, told, step = [], [], run.method.training_step

    def training_step(batch, plan):
        made = step(batch, plan)
        own.append(float(made[0]))
        return made

    class Noting(Callback):
        def on_step(self, record):
            told.append(record.loss)

    run.method.training_step = training_step
    run.callbacks.append(Noting())
    return own, told


def on_two_ranks(config):
    result = {}
    # From one rank, stopped in the middle of the second of 3 epochs; the batch of each process stays.
    widened = separate(config, "widened", *FREEZE, latest(config, "one"))
    result["position"], result["total"] = widened.progress.position, widened.total_steps
    result["rates"], result["held"] = rates_and_freeze(widened)
    separate(config, "two", *FREEZE, "Global.max_train_step=5").run()

    # Batch statistics of their own: the state of each rank comes back, and evaluation sees the network of rank 0.
    straight = separate(config, "straight", *OWN, "Global.epochs=2")
    result["own losses"], result["told losses"] = noted_losses(straight)
    straight.run()
    separate(config, "stopped", *OWN, "Global.epochs=2", "Global.max_train_step=4").run()
    resumed = separate(config, "resumed", *OWN, "Global.epochs=2", latest(config, "stopped"))
    resumed.run()
    assert_same_state(state_of(straight), state_of(resumed))
    own = {name: buffer.numpy() for name, buffer in distributed.running_statistics(resumed.method.model).items()}
    with distributed.statistics_of_rank_0(resumed.method.model):
        seen = {name: buffer.numpy() for name, buffer in distributed.running_statistics(resumed.method.model).items()}
    after = {name: buffer.numpy() for name, buffer in distributed.running_statistics(resumed.method.model).items()}
    assert_same_state(own, after)
    result.update({f"own/{name}": value for name, value in own.items()})
    result.update({f"seen/{name}": value for name, value in seen.items()})

    # The output folder of the last rank is another one, under the same name; so is its number of images.
    rank = distributed.rank()
    elsewhere = Path(config).parent / f"home{rank}"
    elsewhere.mkdir()
    resume.PATIENCE = 0.2
    os.chdir(elsewhere)
    images = write_images(elsewhere / "images", IMAGES - rank)
    apart = trainer(Path(config), "Global.output_dir=mine", f"DataLoader.Train.dataset.root={images}",
                    f"Global.seed={31 + rank}")
    told = [Callback(), type("Counter", (Callback,), {"on_every_rank": True})()]
    heard = Trainer(apart.config, told).callbacks
    result["callbacks"] = [callback in heard for callback in told]
    with pytest.raises(distributed.JointFailure) as failure:
        apart.run()
    result["message"] = str(failure.value)
    result["left"] = os.listdir("mine/SwAV")
    return result


@pytest.mark.dist
def test_two_ranks(config, tmp_path):
    separate(config, "one", *FREEZE, "Global.max_train_step=9").run()
    first, second = run_ranks(on_two_ranks, 2, tmp_path, config=str(config))

    # Step 9 of 18 on one rank is 12 images into the second epoch: place 4 of 9 with batches of 8.
    schedule = separate(config, "reference", "DataLoader.Train.sampler.batch_size=8").optimizer.groups[0][3]
    for done in (first, second):
        assert (int(done.result["position"]), int(done.result["total"])) == (4, 9 + 4)
        # The 12 images left in the epoch make one batch of 8 more.
        np.testing.assert_allclose(done.result["rates"], [schedule(place) for place in (4, 6, 7, 8)])
        assert done.result["held"].tolist() == [True, False, False, False]  # ceil(1.5 * 3) = 5 steps
        names = [key[len("own/"):] for key in done.result if key.startswith("own/")]
        for name in names:
            np.testing.assert_array_equal(done.result[f"seen/{name}"], first.result[f"own/{name}"])
        message = str(done.result["message"])
        assert "rank 1: training images is 23, elsewhere 24" in message
        assert "rank 1: Global.seed is 32, elsewhere 31" in message
        assert f"rank 1: sees what rank 0 writes to {Path('mine/SwAV')} is False, elsewhere True" in message
        assert done.result["left"].tolist() == []
        assert done.result["callbacks"].tolist() == [done is first, True]
    mean = (first.result["own losses"] + second.result["own losses"]) / 2
    assert len(mean) == 6 and (first.result["own losses"] != second.result["own losses"]).any()
    for done in (first, second):  # metrics.jsonl, the log and the averages of an epoch are of this number
        np.testing.assert_allclose(done.result["told losses"], mean, rtol=1e-6)
    assert any((first.result[f"own/{name}"] != second.result[f"own/{name}"]).any() for name in names)

    # And back: two ranks stopped at step 5 of 9, one goes on.
    with log_lines() as lines:
        narrowed = separate(config, "narrowed", *FREEZE, latest(config, "two"))
    assert (narrowed.progress.position, narrowed.total_steps) == (10, 5 + 8)
    schedule = narrowed.optimizer.groups[0][3]
    rates, held = rates_and_freeze(narrowed)
    assert rates == [schedule(place) for place in range(10, 18)] and not any(held)
    assert any("an epoch had 3 iterations of 8 images when the checkpoint was written and has 6 of 4 now" in line
               for line in lines)
