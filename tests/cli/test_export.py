"""`passl-export`: by config and by model."""
import numpy as np
import pytest

from passl.cli import export


@pytest.mark.parametrize("options, message", [
    (["--to", "q.json"], "without suffix"), (["--to", "q", "--size", "0"], "--size 0")])
def test_export_options(options, message, capsys):
    with pytest.raises(SystemExit):
        export.main(["--model", "x", *options])
    assert message in capsys.readouterr().err


def test_export_by_config_and_by_model(trained_probe, pretrained, tmp_path, capsys):
    assert export.main(["-c", str(trained_probe / "config.yaml"), "-o", f"Global.output_dir={tmp_path}", "Export="
                        "{input_shape: [null, 3, 16, 16]}", f"Global.pretrained_model={trained_probe}/best"]) == 0
    assert (tmp_path / "swav_resnet10_linearprobe.pdiparams").is_file()
    assert export.main(["--model", str(pretrained), "--to", str(tmp_path / "trunk")]) == 0
    out = capsys.readouterr().out  # the run prepares images of 16 pixels
    assert "trunk.pdiparams" in out and "[any, 3, 16, 16]" in out
    assert export.main(["--model", str(pretrained), "--to", str(tmp_path / "trunk"), "--size", "20"]) == 0
    assert "[any, 3, 20, 20]" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        export.main(["--model", str(pretrained)])


def test_export_by_config_is_the_config_s_network(trained_probe, pretrained, tmp_path, capsys):
    """The same weights serve several networks: what comes out is what Model says, and never a part of it."""
    arguments = ["-c", str(pretrained / "config.yaml"), "-o", f"Global.output_dir={tmp_path}"]
    assert export.main([*arguments, f"Global.pretrained_model={pretrained}/latest", "--output", "embedding"]) == 0
    from passl.inference.exported import run_exported

    images = np.random.RandomState(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    assert run_exported(tmp_path / "SwAV", images).shape == (2, 8)
    for override in ("Model.backbone.nmb_prototypes=7", "Model.backbone.base_channels=8",
                     f"Global.pretrained_model={trained_probe}/best"):
        assert export.main([*arguments, f"Global.pretrained_model={pretrained}/latest", override]) == 1
        assert "weights from" in capsys.readouterr().err  # the table of what does not fit
