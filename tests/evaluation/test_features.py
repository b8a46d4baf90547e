import numpy as np
import paddle
import pytest

from passl.evaluation.features import fingerprint, load_features, save_features

FEATURES = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
LABELS = np.array([0, 1, -1, 2, 0, 1])
KEY = {"weights": "abc", "size": [224, 256]}


def save(folder, key=KEY, features=FEATURES):
    save_features(folder, key, features, LABELS)


def test_round_trip_as_memory_maps(tmp_path):
    assert load_features(tmp_path / "train", KEY) is None
    save(tmp_path / "train", {"weights": "abc", "size": (224, 256)})
    found = load_features(tmp_path / "train", KEY)
    assert isinstance(found.features, np.memmap) and found.features.dtype == np.float32
    assert (found.features == FEATURES).all() and (found.labels == LABELS).all()
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_another_key_is_told_and_not_used(tmp_path):
    save(tmp_path / "train")
    with pytest.warns(UserWarning, match="another weights;"):
        assert load_features(tmp_path / "train", {**KEY, "weights": "xyz"}) is None
    save(tmp_path / "train", {**KEY, "weights": "xyz"}, FEATURES + 1)
    assert (load_features(tmp_path / "train", {**KEY, "weights": "xyz"}).features == FEATURES + 1).all()


def test_interrupted_write_leaves_the_old_features(tmp_path, monkeypatch):
    save(tmp_path / "train")

    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path / "train", features=FEATURES + 1)
    assert (load_features(tmp_path / "train", KEY).features == FEATURES).all()
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_damaged_files_are_an_error(tmp_path):
    save(tmp_path / "train")
    (tmp_path / "train" / "labels.npy").write_bytes(b"not an array")
    with pytest.raises(ValueError, match="no readable features .* remove the folder"):
        load_features(tmp_path / "train", KEY)
    np.save(tmp_path / "train" / "labels.npy", LABELS[:4])
    with pytest.raises(ValueError, match=r"should hold 6 rows, found \[6, 4\]"):
        load_features(tmp_path / "train", KEY)
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="no readable features"):
        load_features(tmp_path / "other", KEY)


def test_unequal_lengths_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="6 features for 5 labels"):
        save_features(tmp_path / "train", KEY, FEATURES, LABELS[:5])
    assert not list(tmp_path.iterdir())


def test_fingerprint_follows_names_values_shapes_and_dtypes_only():
    state = {"a": paddle.to_tensor([[1.0, 2.0]]), "b": paddle.to_tensor([3])}
    same = {"b": np.array([3]), "a": np.array([[1.0, 2.0]], np.float32)}
    assert fingerprint(state) == fingerprint(same)
    others = [{**same, "a": same["a"] + 1e-6}, {**same, "a": same["a"].T}, {**same, "b": same["b"].astype(np.int32)},
              {"c": same["a"], "b": same["b"]}]
    assert len({fingerprint(other) for other in [same, *others]}) == 5
