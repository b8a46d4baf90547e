"""What the weights cannot tell: the stem and how images are prepared. Told by the file, its library or the user."""
import itertools
import logging
import shutil

import numpy as np
import paddle
import pytest

import passl
from passl.cli import convert as convert_command
from passl.cli import embed
from passl.errors import CheckpointError, UserError
from passl.inference.verify import fixed_input, numpy_forward
from passl.models.build import build_network
from passl.models.stems import STEMS
from passl.weights import load_into, read, recognise
from passl.weights.formats.writers import write_paddle, write_torch
from passl.weights.layouts.description import DESCRIPTION, Description, evaluation_transform, read_description, told
from tests.engine import runs
from tests.trained_runs import pictures  # noqa: F401
from tests.weights.checkpoints import filled, pretraining_shapes, renamed, resnet_shapes
from tests.weights.library_layouts import SOLO_RULE

SMALL = filled(resnet_shapes((1, 1, 1, 1), 8, bottleneck=False, kernel=3))
IMAGES = fixed_input(32)
THREE = [name for name, (kernel, *_) in STEMS.items() if kernel == 3]


def features(model):
    with paddle.no_grad():
        return model.extract_feat(paddle.to_tensor(IMAGES)).numpy()


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if "does not say how" in record.getMessage()]


@pytest.fixture
def foreign(tmp_path):
    write_torch(str(tmp_path / "cifar.pth"), SMALL)
    return str(tmp_path / "cifar.pth")


@pytest.fixture(autouse=True)
def told_to_caplog(monkeypatch):
    monkeypatch.setattr(logging.getLogger("passl"), "propagate", True)


def test_a_guess_is_said_once_and_the_user_says_otherwise(foreign, caplog):
    assumed = passl.get_model(foreign)
    warning, = warnings_of(caplog)
    assert "the stem 'small'" in warning and "32x32 pixels" in warning and "--stem" in warning and "--size" in warning
    assert assumed.trunk.stem == "small" and assumed.card.transform == evaluation_transform(32)
    caplog.clear()
    different = {stem: features(passl.get_model(foreign, stem=stem, size=64)) for stem in THREE}
    assert not warnings_of(caplog)
    for one, other in itertools.combinations(THREE, 2):
        assert np.abs(different[one] - different[other]).max() > 0.01 * np.abs(different[one]).max()
    np.testing.assert_array_equal(different["small"], features(assumed))
    named = passl.get_model("resnet10", pretrained=foreign, base_channels=8, stem="small_pooled", size=48)
    np.testing.assert_array_equal(features(named), different["small_pooled"])
    assert named.card.transform == evaluation_transform(48) and not warnings_of(caplog)
    passl.get_model("resnet10", pretrained=foreign, base_channels=8)
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("stem", THREE)
def test_every_stem_is_verified_against_its_own_numpy(foreign, tmp_path, stem, capsys):
    """Padding and max-pool of the numpy side come from the table, and the converted file keeps the stem."""
    canonical, found = recognise(told(read(foreign), stem))
    expected = numpy_forward(canonical, found, IMAGES)["features"]
    np.testing.assert_allclose(features(passl.get_model(foreign, stem=stem)), expected, rtol=1e-3, atol=1e-4)
    out = str(tmp_path / "out.pdparams")
    assert convert_command.main([foreign, out, "--stem", stem, "--size", "40", "--verify"]) == 0
    assert f"stem            {stem}\n" in capsys.readouterr().out
    model = passl.get_model(out)
    assert model.trunk.stem == stem and model.card.transform == evaluation_transform(40)
    np.testing.assert_array_equal(features(model), features(passl.get_model(foreign, stem=stem)))


@pytest.mark.parametrize("library, prefix, stem", [("solo", "backbone.", "small_padded"),
                                                   ("mmpretrain", "backbone.", "small")])
def test_where_the_library_is_known_so_is_its_stem(tmp_path, caplog, library, prefix, stem):
    state = filled(pretraining_shapes((5,), bottleneck=False, kernel=3))
    state = (renamed(state, SOLO_RULE) if library == "solo" else
             {**renamed(SMALL, str, prefix), **filled({"head.fc.weight": (3, 64), "head.fc.bias": (3,)})})
    source, out = str(tmp_path / "in.ckpt"), str(tmp_path / "out.pdparams")
    write_torch(source, state)
    assert passl.get_model(source).trunk.stem == stem
    assert convert_command.main([source, out, "--verify"]) == 0
    assert passl.get_model(out).trunk.stem == stem
    assert not [warning for warning in warnings_of(caplog) if "stem" in warning.split("--stem")[0]]


def test_an_old_conversion_remembers_its_library(tmp_path):
    """Files written before the entry have `passl.conversion`, which names the layout."""
    source, out = str(tmp_path / "in.ckpt"), str(tmp_path / "out.pdparams")
    write_torch(source, renamed(filled(pretraining_shapes((5,), bottleneck=False, kernel=3)), SOLO_RULE))
    assert convert_command.main([source, out]) == 0
    from passl.weights import read_tree
    old = {key: value for key, value in read_tree(out).items() if key != DESCRIPTION}
    write_paddle(str(tmp_path / "old.pdparams"), old)
    assert passl.get_model(tmp_path / "old.pdparams").trunk.stem == "small_padded"


def test_a_checkpoint_copied_away_from_its_run_is_the_same_network(tmp_path, pictures, caplog):  # noqa: F811
    trainer = runs.trainer(runs.write_config(tmp_path, pictures / "train"), "Global.epochs=1",
                           "Model.backbone.stem=small_padded")
    trainer.config.save(trainer.folder / "config.yaml")
    trainer.run()
    run = trainer.folder
    here = passl.get_model(run)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(run / "latest" / "passl.pdparams", tmp_path / "elsewhere" / "mine.pdparams")
    caplog.clear()
    away = passl.get_model(tmp_path / "elsewhere" / "mine.pdparams")
    assert away.trunk.stem == here.trunk.stem == "small_padded"
    assert away.card.transform == here.card.transform and not warnings_of(caplog)
    np.testing.assert_array_equal(features(away), features(here))
    with pytest.raises(CheckpointError, match="the stem 'small_padded', the model has 'small'"):
        load_into(build_network({**away.section, "stem": "small"}, "pretrain"),
                  tmp_path / "elsewhere" / "mine.pdparams")
    # Paddle's own loader skips the entry
    state = paddle.load(str(run / "latest" / "passl.pdparams"))
    assert DESCRIPTION in state
    fresh = build_network({**away.section}, "pretrain")
    before = fresh.trunk.conv1.weight.numpy()
    fresh.set_state_dict(state)
    assert not np.array_equal(fresh.trunk.conv1.weight.numpy(), before)
    np.testing.assert_array_equal(fresh.trunk.conv1.weight.numpy(), away.trunk.conv1.weight.numpy())


def test_recalibration_keeps_what_it_knows(foreign, tmp_path, caplog):
    import PIL.Image

    PIL.Image.fromarray(np.zeros([40, 40, 3], np.uint8)).save(tmp_path / "one.png")
    model = passl.get_model(foreign, stem="small_pooled", size=40)
    passl.recalibrate(model, tmp_path / "one.png", tmp_path / "again", size=40, batch_size=1)
    caplog.clear()
    (tmp_path / "again" / "config.yaml").unlink()
    opened = passl.get_model(tmp_path / "again" / "passl.pdparams")
    assert opened.trunk.stem == "small_pooled" and opened.card.transform == evaluation_transform(40)
    assert not warnings_of(caplog)


def test_old_own_files_open_as_before_with_a_word(tmp_path, caplog):
    network = build_network({"type": "resnet10", "base_channels": 8})
    write_paddle(str(tmp_path / "old.pdparams"), {name: value.numpy() for name, value in network.state_dict().items()})
    model = passl.get_model(tmp_path / "old.pdparams")
    assert model.card.transform == evaluation_transform() and "224x224" in warnings_of(caplog)[0]
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), value.numpy())


def test_commands_take_stem_and_size(foreign, tmp_path):
    import PIL.Image

    PIL.Image.fromarray(np.arange(40 * 40 * 3).reshape(40, 40, 3).astype(np.uint8)).save(tmp_path / "one.png")
    rows = {}
    for stem, size in (("small", "32"), ("small_padded", "32"), ("small", "40")):
        out = tmp_path / f"{stem}{size}"
        assert embed.main([foreign, str(tmp_path / "one.png"), "--output", str(out), "--stem", stem, "--size", size,
                           "--workers", "0"]) == 0
        rows[stem, size] = np.load(out / "features.npy")
    assert len({array.tobytes() for array in rows.values()}) == 3
    # an interrupted embedding is not continued with another stem
    assert embed.main([foreign, str(tmp_path / "one.png"), "--output", str(tmp_path / "small32"), "--size", "32",
                       "--stem", "small_padded"]) == 1


def test_what_cannot_be_is_refused(foreign, tmp_path, capsys):
    with pytest.raises(CheckpointError, match="3x3, which is not the stem 'imagenet'"):
        passl.get_model(foreign, stem="imagenet")
    with pytest.raises(UserError, match="stem 'tiny' is not known"):
        passl.get_model(foreign, stem="tiny")
    with pytest.raises(UserError, match="at least 1 pixel"):
        passl.get_model(foreign, size=0)
    assert convert_command.main([foreign, str(tmp_path / "out.pdparams"), "--stem", "imagenet"]) == 1
    for entry in ("x", {"model": 1}, {"other": 2}, {"model": {"backbone": 3}}, {"transform": {}}):
        with pytest.raises(CheckpointError, match="damaged"):
            read_description({DESCRIPTION: entry})
    assert read_description({}) == Description()
