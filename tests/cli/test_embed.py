"""`passl-embed`: rows in order, resuming, damaged files, folders that do not fit."""
import numpy as np

import passl
from passl.cli import embed
from tests.cli.shared import SERIAL, rows


def test_embed_is_independent_of_workers_and_resumes(pretrained, pictures, tmp_path, monkeypatch, capsys):
    expected = passl.embed(passl.get_model(str(pretrained)), pictures / "train")
    for workers in ("0", "2"):
        folder = tmp_path / workers
        arguments = [str(pretrained), str(pictures / "train"), "--output", str(folder), *SERIAL, "--workers", workers]
        assert embed.main(arguments) == 0
        np.testing.assert_allclose(np.load(folder / "features.npy"), expected, atol=1e-5)
    index = rows(folder / "index.csv")
    assert index[0] == ["row", "path", "class", "readable"] and index[1][2:] == ["colour_0", "1"] and len(index) == 12
    assert embed.main(arguments) == 0  # complete: nothing to do
    assert "0 of them now" in capsys.readouterr().out

    from passl.inference.engine import Engine

    monkeypatch.setattr("passl.inference.embed.SAVE_SECONDS", -1.0)
    real, seen = Engine.stream, []

    def interrupted(*arguments, **options):
        for batch in real(*arguments, **options):
            seen.append(batch.start)
            yield batch
            if len(seen) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "stream", interrupted)
    arguments = [str(pretrained), str(pictures / "train"), "--output", str(tmp_path / "again"), *SERIAL]
    capsys.readouterr()
    assert embed.main(arguments) == 130
    assert "again: call again to continue" in capsys.readouterr().err
    assert not (tmp_path / "again" / "features.npy").exists()
    assert embed.main(arguments) == 0
    assert seen == [0, 4, 8]  # the third batch only, the second time
    np.testing.assert_array_equal(np.load(tmp_path / "again" / "features.npy"), np.load(tmp_path / "0/features.npy"))
    assert embed.main([str(pretrained), str(pictures / "val"), "--output", str(tmp_path / "again"), *SERIAL]) == 1
    assert "embeddings of other images" in capsys.readouterr().err


def test_embed_marks_unreadable_files(pretrained, pictures, tmp_path, capsys, caplog):
    (tmp_path / "in").mkdir()
    for number, path in enumerate(sorted((pictures / "val").rglob("*.png"))[:3]):
        (tmp_path / "in" / f"{number}.png").write_bytes(path.read_bytes() if number != 1 else b"broken")
    arguments = [str(pretrained), str(tmp_path / "in"), "--output", str(tmp_path / "out"), *SERIAL]
    assert embed.main(arguments) == 1
    assert "1.png" in capsys.readouterr().err
    assert embed.main([*arguments, "--skip-unreadable"]) == 0
    assert "1.png" in caplog.text
    features = np.load(tmp_path / "out" / "features.npy")
    assert np.isnan(features[1]).all() and np.isfinite(features[[0, 2]]).all()
    assert [row[3] for row in rows(tmp_path / "out" / "index.csv")[1:]] == ["1", "0", "1"]


def test_embed_says_what_is_wrong_with_its_folder(pretrained, pictures, tmp_path, capsys):
    from passl.files import locked

    arguments = [str(pretrained), str(pictures / "val"), "--output", str(tmp_path), *SERIAL]
    with locked(tmp_path / ".lock"):
        assert embed.main(arguments) == 1
    assert "another process is writing" in capsys.readouterr().err
    for text in ("", "[]", '{"key": 1}'):
        (tmp_path / "progress.json").write_text(text)
        assert embed.main(arguments) == 1
        assert "progress.json is damaged" in capsys.readouterr().err
