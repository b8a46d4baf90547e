"""`python -m passl.config`: the keys on the terminal."""
from passl.config.__main__ import main


def test_one_section(capsys):
    assert main(["Global.kn"]) == 0
    line, = capsys.readouterr().out.splitlines()
    assert line.startswith("Global.knn_interval: int = 0  # Epochs between k-NN")


def test_everything(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    for section in ("Global", "FP16", "DataLoader.Train.sampler.batch_size"):
        assert f"\n{section}" in "\n" + text


def test_a_mistyped_section_is_an_error(capsys):
    assert main(["Globel"]) == 2
    assert "no key starts with Globel (did you mean 'Global'?); sections: Global, " in capsys.readouterr().err
