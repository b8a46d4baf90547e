"""`passl-predict`: files written, numbers right, bad input named."""
import json

import numpy as np
import pytest

import passl
from passl.cli import predict
from tests.cli.shared import SERIAL, rows


def test_predict_writes_json_and_csv(trained_probe, pictures, tmp_path, capsys):
    images = [str(pictures / "val"), str(next((pictures / "train").rglob("*.png")))]
    output = ["--output", str(tmp_path / "p.json")]
    assert predict.main([str(trained_probe), *images, "--top-k", "2", *output, *SERIAL]) == 0
    results = json.loads((tmp_path / "p.json").read_text())
    assert len(results) == 8
    paths = [result["path"] for result in results]
    expected = passl.inference_model(passl.get_model(str(trained_probe)), paths, top_k=2)
    for ours, theirs in zip(results, expected):
        assert [p["class"] for p in ours["predictions"]] == [name for name, _ in theirs["top"]]
        np.testing.assert_allclose([p["score"] for p in ours["predictions"]], [s for _, s in theirs["top"]], atol=1e-5)
    assert predict.main([str(trained_probe), images[1], "--output", str(tmp_path / "p.csv"), *SERIAL]) == 0
    assert [row[1] for row in rows(tmp_path / "p.csv")] == ["rank", "1", "2", "3"]
    assert predict.main([str(trained_probe), images[1], *SERIAL]) == 0
    assert "colour_" in capsys.readouterr().out


def test_predict_refuses_what_cannot_answer(pretrained, trained_probe, pictures, tmp_path, capsys):
    assert predict.main([str(pretrained), str(pictures / "val"), *SERIAL]) == 1
    assert "has no classifier" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("a\nb\n")
    assert predict.main([str(trained_probe), str(pictures / "val"), "--classes", "nofile", *SERIAL]) == 1
    assert "--classes nofile: there is no such file" in capsys.readouterr().err
    names = ["--classes", str(tmp_path / "names.txt")]
    assert predict.main([str(trained_probe), str(pictures / "val"), *names, *SERIAL]) == 1
    assert "2 class names for a classifier of 3" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        predict.main([str(trained_probe), "x.png", "--output", "p.txt"])


@pytest.mark.parametrize("name", ["one.gif", "one.jfif", "3f9a0c", "photo.of.today"])
def test_an_image_of_any_name_is_no_text_file(trained_probe, pictures, tmp_path, capsys, name):
    from PIL import Image

    with Image.open(next((pictures / "val/colour_0").iterdir())) as image:
        image.convert("RGB").save(tmp_path / name, {"one.gif": "GIF", "photo.of.today": "WEBP"}.get(name, "JPEG"))
    assert predict.main([str(trained_probe), str(tmp_path / name), *SERIAL]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / name}: colour_")
    assert isinstance(passl.predict(str(trained_probe), str(tmp_path / name)), dict)  # one picture, not a list
