"""Recalibrated statistics are the averages over the given batches, and nothing else changes."""
import numpy as np
import paddle
import pytest

import passl
from passl.inference.engine import Engine
from passl.inference.recalibrate import measure_batch_norm

SMALL = {"stem": "small", "base_channels": 4}


def test_one_batch_makes_evaluation_equal_to_training():
    model = passl.get_model("resnet10", **SMALL)
    images = paddle.randn([4, 3, 16, 16]) * 3 + 1
    model.train()
    with paddle.no_grad():
        expected = model(images).numpy()
    model.eval()
    assert measure_batch_norm(Engine(model, batch_size=4), images) == 4
    assert not model.training and not model.encoder.bn1.training and model.encoder.bn1._momentum == 0.9
    np.testing.assert_allclose(model(images).numpy(), expected, atol=1e-4)


def test_batches_are_averaged_and_heads_and_weights_stay():
    model = passl.get_model("swav_resnet10_pretrain", hidden_mlp=8, nmb_prototypes=5, **SMALL)
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    batches = [paddle.randn([4, 3, 16, 16]) + shift for shift in (0.0, 2.0)]
    measure_batch_norm(Engine(model, batch_size=4), paddle.concat(batches))
    convolution = model.res_model.encoder.conv1
    expected = np.mean([convolution(batch).mean(axis=[0, 2, 3]).numpy() for batch in batches], axis=0)
    np.testing.assert_allclose(model.res_model.encoder.bn1._mean.numpy(), expected, atol=1e-5)
    for name, value in model.state_dict().items():
        moved = "encoder" in name and name.endswith(("_mean", "_variance"))
        assert np.array_equal(value.numpy(), before[name]) != moved, name


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_statistics_of_broken_images_are_an_error(value):
    images = paddle.randn([4, 3, 16, 16])
    images[1, 0, 3, 3] = value
    with pytest.raises(FloatingPointError, match="batch-norm statistics hold NaN or infinity"):
        measure_batch_norm(Engine(passl.get_model("resnet10", **SMALL), batch_size=4), images)


def test_needs_images_and_batch_norm():
    with pytest.raises(ValueError, match="no images"):
        measure_batch_norm(Engine(passl.get_model("resnet10", **SMALL)), paddle.randn([4, 3, 16, 16]))
    with pytest.raises(ValueError, match="no batch norm"):
        measure_batch_norm(Engine(paddle.nn.Linear(2, 2)), paddle.randn([4, 3, 16, 16]))


SERIAL = ["--workers", "0", "--batch-size", "4", "--device", "cpu"]


def test_command_writes_a_run_of_the_other_size(trained_probe, pictures, tmp_path, capsys):
    from passl.cli import recalibrate

    output = str(tmp_path / "new")
    assert recalibrate.main([str(trained_probe), str(pictures / "train"), "--size", "12", "--output", output, *SERIAL]
                            ) == 0
    assert "8 images of 12 pixels" in capsys.readouterr().out  # two whole batches of the eleven
    old, new = (passl.get_model(name) for name in (str(trained_probe), output))
    changed = {name.rpartition(".")[2] for name, value in old.state_dict().items()
               if not np.array_equal(value.numpy(), new.state_dict()[name].numpy())}
    assert changed == {"_mean", "_variance"}
    assert new.card.transform == [{"Resize": {"size": 12}}, {"CenterCrop": {"size": 12}},
                                  {"Normalize": {"mean": [0.5] * 3, "std": [0.25] * 3}}]
    assert new.card.classes == old.card.classes == ["colour_0", "colour_1", "colour_2"]


def test_command_needs_a_whole_batch(trained_probe, pictures, tmp_path, capsys):
    from passl.cli import recalibrate

    assert recalibrate.main([str(trained_probe), str(pictures / "val"), "--size", "12", "--output", str(tmp_path),
                             *SERIAL, "--batch-size", "8"]) == 1
    assert "7 images make no whole batch of 8" in capsys.readouterr().err


def test_constants_come_from_any_kind_of_transform_list(pretrained, pictures, tmp_path, monkeypatch):
    from passl.cli import recalibrate

    for entries, expected in (([{"NormalizeImage": {"mean": [0.1] * 3, "std": [0.2] * 3}}], ([0.1] * 3, [0.2] * 3)),
                              ([{"ToTensor": None}], ([0.0] * 3, [1.0] * 3))):
        model = passl.get_model(str(pretrained))
        model.card.transform = entries
        monkeypatch.setattr(recalibrate, "open_model", lambda options, model=model: model)
        assert recalibrate.main(["x", str(pictures / "train"), "--size", "12", "--output", str(tmp_path), *SERIAL]) == 0
        normalize = passl.get_model(str(tmp_path)).card.transform[-1]["Normalize"]
        np.testing.assert_allclose((normalize["mean"], normalize["std"]), expected, atol=1e-6)


def test_command_takes_weights_without_a_run(pretrained, pictures, tmp_path, capsys):
    from passl.cli import recalibrate

    bare = tmp_path / "bare.pdparams"
    bare.write_bytes((pretrained / "latest.pdparams").read_bytes())
    arguments = [str(bare), str(pictures / "train"), "--size", "12", *SERIAL, "--output"]
    assert recalibrate.main([*arguments, str(tmp_path / "new")]) == 0
    assert passl.get_model(str(tmp_path / "new")).card.transform[0] == {"Resize": {"size": 12}}
    with pytest.raises(SystemExit):
        recalibrate.main([*arguments, str(tmp_path / "new.pdparams")])
    assert "name a folder" in capsys.readouterr().err
