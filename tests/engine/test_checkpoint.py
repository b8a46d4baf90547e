"""Checkpoints on disk: layout, atomicity, verification, and messages for what cannot be used."""
import json
import os
import resource

import numpy as np
import paddle
import pytest

from passl.distributed import JointFailure, RankFailure
from passl.engine import checkpoint
from passl.errors import CheckpointError
from tests.engine.runs import assert_same_state, state_of, trainer


@pytest.fixture
def finished(config):
    run = trainer(config)
    run.run()
    return run


def test_layout_is_passl_with_a_manifest(finished):
    names = sorted(p.name for p in finished.folder.iterdir() if not p.name.startswith("."))
    for name in ("latest", "epoch_2", "epoch_3"):
        assert {name, f"{name}.pdparams", f"{name}.pdopt", f"{name}.pdstates"} <= set(names)
    assert "epoch_1" not in names and "epoch_1.pdparams" not in names  # max_num_latest_checkpoint: 2
    assert len(os.listdir(finished.folder / "checkpoints")) == 2  # latest is epoch_3
    manifest = json.loads((finished.folder / "latest" / "manifest.json").read_text())
    assert set(manifest["files"]) == {"passl.pdparams", "passl.pdopt", "passl.pdstates", "rank_0.pdstates",
                                      "config.yaml"}
    weights = paddle.load(str(finished.folder / "latest.pdparams"))
    assert "res_model.encoder.conv1.weight" in weights and "res_model.prototypes.weight" in weights


@pytest.mark.parametrize("spelling", ["latest", "latest.pdparams", "latest.pdopt", "epoch_3", "", "latest/"])
def test_locate_takes_every_spelling(finished, spelling):
    assert checkpoint.locate(os.path.join(str(finished.folder), spelling)).name == "step_000000015"


def test_ranks_come_back_in_the_order_of_their_numbers(tmp_path):
    """Rank 10 after rank 2, not after rank 1."""
    store, aside = checkpoint.CheckpointStore(tmp_path, 0), tmp_path / "checkpoints" / ".step_000000003.partial"
    shared = {checkpoint.PARAMETERS: {"weight": np.ones(2)}, checkpoint.OPTIMIZER: {}, checkpoint.STATES: {}}

    def others_write_too():
        for rank in range(1, 12):
            paddle.save({"number": rank}, str(aside / f"rank_{rank}.pdstates"))
        return shared

    store.save(["latest"], 3, others_write_too, {"number": 0})
    assert [state["number"] for state in checkpoint.load(str(tmp_path / "latest")).ranks] == list(range(12))


def test_keep_none_and_keep_all(config):
    run = trainer(config, "Global.max_num_latest_checkpoint=0", "Global.epochs=2")
    run.run()
    assert not list(run.folder.glob("epoch_*")) and (run.folder / "latest").exists()
    run = trainer(config, "Global.max_num_latest_checkpoint=-1", "Global.epochs=3", "Global.overwrite=True")
    run.run()
    assert len([p for p in run.folder.glob("epoch_*") if p.is_dir()]) == 3


def test_full_disk_leaves_the_previous_checkpoint_and_says_so(config):
    run = trainer(config, "Global.epochs=2")
    run.run()
    saved = state_of(run)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Writing beyond this fails in the kernel, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        run.progress.step += 1
        with pytest.raises(RankFailure, match="writing the checkpoint failed on rank 0"):
            run._save(["latest"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((run.folder / "checkpoints").glob(".*"))
    assert_same_state(saved, state_of(trainer(config, "Global.epochs=2", f"Global.checkpoint={run.folder}/latest")))


@pytest.mark.parametrize("damage, message", [
    (lambda path: path.write_bytes(path.read_bytes()[:-10]), "bytes instead of"),
    (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "does not match its checksum"),
    (lambda path: path.unlink(), "is missing"),
], ids=["truncated", "altered", "missing"])
@pytest.mark.parametrize("file", ["passl.pdparams", "passl.pdopt", "rank_0.pdstates"])
def test_damaged_checkpoint_is_refused_by_name(finished, damage, message, file):
    damage(finished.folder / "latest" / file)
    with pytest.raises(CheckpointError, match=f"{file}.*{message}"):
        checkpoint.load(str(finished.folder / "latest"))


def test_checkpoint_of_another_architecture_is_refused(finished, config):
    with pytest.raises(JointFailure, match="another architecture: res_model.*pretrained_model"):
        trainer(config, "Model.backbone.base_channels=8", f"Global.checkpoint={finished.folder}/latest")


def test_missing_checkpoint_lists_what_there_is(finished):
    with pytest.raises(CheckpointError, match="no checkpoint at .*epoch_9; there are: .*epoch_2"):
        checkpoint.locate(str(finished.folder / "epoch_9"))


def test_foreign_weights_are_no_checkpoint(tmp_path):
    paddle.save({}, str(tmp_path / "old.pdparams"))
    with pytest.raises(CheckpointError, match="Global.pretrained_model=.*old"):
        checkpoint.load(str(tmp_path / "old"))
