"""What earlier code left on disk is still read and continued: checkpoints, configs, conversions, embeddings, folders.

The files here were made before the restructuring, by make.py. They stay as they are when the code changes: a failure
means that a user's files of that time can no longer be used.
"""
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from passl.cli import convert, embed, train
from passl.config import ConfigWarning, check, load_config
from passl.weights import read, read_tree
from passl.weights.layouts.description import DESCRIPTION
from tests.distributed.ranks import run_ranks
from tests.samples.make import EMBED, IMAGES, RANKS, RECIPES, losses, run_folder, write_images

HERE = Path(__file__).resolve().parent
ONE_RANK = [sample for sample in RECIPES if RANKS[sample] == 1]
TWO_RANKS = [sample for sample in RECIPES if RANKS[sample] == 2]
# Relative, of losses. The largest deviations that `make.py --measure` found in the losses: 1.1e-6
# with MKL restricted to SSE4.2 or AVX2, on one or two threads; 2.2e-4 where OpenCV may not use AVX2 (it then rounds a
# pixel in forty thousand otherwise). Paddle 2.6.2 against 3.3.1, which made the files, adds nothing to either. This is
# five times the latter. A lost momentum moves losses by 2e-3 to 1e-2 (SeLa's by less), a lost queue by up to 0.3.
TOLERANCE = 1e-3
FEATURE_TOLERANCE = 1e-5  # of values up to 0.6; the same variations moved them by at most 4.2e-7
# Settings that came after the samples, by their dotted paths: those of the files may not know them.
LATER_SETTINGS = {"Model.backbone.prototype_bias", "Global.engine"}
# Settings that nothing read; a file that has them is accepted, and they are dropped.
FORMER_SETTINGS = {"Global.train_loop", "Global.validate_loop"}


def open_run(config: Path, *overrides: str):
    """A Trainer that has resumed and not trained. With `save_again` the only place that knows how runs are built."""
    from passl.engine import environment
    from passl.engine.trainer import Trainer

    checked = check(load_config(str(config), list(overrides)))
    environment.select_device("cpu")
    (Path(checked.Global.output_dir) / checked.Model.name).mkdir(parents=True, exist_ok=True)
    return Trainer(checked)


def save_again(run) -> Path:
    """Write the state of a run as it is now; the folder of that checkpoint."""
    run._save(["latest"])
    return run.folder / "latest"


# ------------------------------------------------------------------------------------------------- what tests share
def copied(folder: Path, sample: str) -> Path:
    """The sample and the images below `folder`, in which its relative paths hold; the folder of its run."""
    for part in dict.fromkeys([sample, "swav"]):  # classifiers name the trunk they began with
        shutil.copytree(HERE / "runs" / part, folder / "runs" / part, symlinks=True)
    write_images(folder / "images")
    return run_folder(folder, sample).relative_to(folder)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_equal(found, expected, what):
    """Bit for bit, and of the same type, for everything in `expected`; later code may save more."""
    if isinstance(expected, dict):
        for name, value in expected.items():
            if name not in ("timestamp", "StructuredToParameterName@@"):  # the hour; Paddle's own, without content
                assert name in found, f"{what}/{name} is lost"
                assert_equal(found[name], value, f"{what}/{name}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), what
        for place, value in enumerate(expected):
            assert_equal(found[place], value, f"{what}/{place}")
    elif isinstance(expected, np.ndarray):
        assert isinstance(found, np.ndarray) and (found.dtype, found.shape) == (expected.dtype, expected.shape), what
        assert found.tobytes() == expected.tobytes(), what
    else:
        assert type(found) is type(expected) and found == expected, what


def assert_same_checkpoint(found: Path, expected: Path):
    names = sorted(path.name for path in expected.iterdir())
    assert names == sorted(path.name for path in found.iterdir())
    for name in names:
        if name.endswith((".pdopt", ".pdstates", ".pdparams")):
            before = read_tree(expected / name)
            assert before
            now = read_tree(found / name)
            assert (now.pop(DESCRIPTION, None) is None) == (name != "passl.pdparams")  # written since the samples
            assert_equal(now, before, name)
    assert list(read(found / "passl.pdparams").tensors) == list(read(expected / "passl.pdparams").tensors)


def assert_same_steps(found, sample: str):
    expected = json.loads((HERE / "continued.json").read_text())[sample]
    assert len(expected) == 6 and [record["step"] for record in found] == [record["step"] for record in expected]
    for one, other in zip(found, expected):
        assert one.keys() == other.keys()
        assert one.pop("loss") == pytest.approx(other.pop("loss"), rel=TOLERANCE), f"{sample}, step {one['step']}"
        assert one == pytest.approx(other, rel=1e-12), f"{sample}, learning rates of step {one['step']}"


def resume_and_save_again(folder: Path, run: Path) -> None:
    """The state that a run has after resuming is, saved anew, the file's."""
    resumed = open_run(run / "config.yaml", f"Global.checkpoint={run / 'latest'}", f"Global.output_dir={folder}")
    assert_same_checkpoint(save_again(resumed), run / "latest")


# ------------------------------------------------------------------------------------------------- checkpoints
@pytest.mark.parametrize("sample", ONE_RANK)
def test_a_checkpoint_is_loaded_bit_for_bit(here, sample):
    resume_and_save_again(Path("again"), copied(here, sample))


@pytest.mark.parametrize("sample", ONE_RANK)
def test_a_run_is_continued_to_its_end(here, sample):
    run = copied(here, sample)
    status = train.main(["-c", str(run / "config.yaml"), "-o", "Global.checkpoint=auto", "Global.max_train_step=None"])
    assert status == 0
    assert_same_steps(losses(run / "metrics.jsonl"), sample)


def on_two_ranks(where, samples):
    """What the two tests above do, on each rank."""
    import os

    os.chdir(where)
    for sample in samples:
        run = run_folder(Path(), sample)
        resume_and_save_again(Path(f"again_{sample}"), run)
        open_run(run / "config.yaml", "Global.checkpoint=auto", "Global.max_train_step=None").run()


@pytest.mark.dist
def test_checkpoints_of_two_ranks_are_loaded_bit_for_bit_and_continued(here):
    for sample in TWO_RANKS:
        shutil.copytree(HERE / "runs" / sample, here / "runs" / sample, symlinks=True)
        assert (run_folder(here, sample) / "latest" / "rank_1.pdstates").is_file()
    write_images(here / "images")
    run_ranks(on_two_ranks, 2, here, where=str(here), samples=TWO_RANKS)
    for sample in TWO_RANKS:
        assert_same_steps(losses(run_folder(here, sample) / "metrics.jsonl"), sample)


# ------------------------------------------------------------------------------------------------- configs
def settings(tree, path=""):
    """(dotted path, value) of every leaf."""
    if isinstance(tree, dict) and tree:
        return [leaf for name, value in tree.items() for leaf in settings(value, f"{path}.{name}" if path else name)]
    if isinstance(tree, list) and tree:
        return [leaf for place, value in enumerate(tree) for leaf in settings(value, f"{path}.{place}")]
    return [(path, tree)]


@pytest.mark.parametrize("sample", RECIPES)
def test_a_saved_config_is_complete_and_says_what_it_said(here, sample):
    run = copied(here, sample)
    for path in (run / "config.yaml", run / "latest" / "config.yaml"):
        raw = load_config(str(path))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", ConfigWarning)
            checked = check(raw)
        ours = [str(one.message) for one in said if one.category is ConfigWarning]
        assert all(any(name in message for name in FORMER_SETTINGS) for message in ours)
        before, after = dict(settings(raw.plain())), dict(settings(checked.plain()))
        assert {name: value for name, value in after.items() if name not in LATER_SETTINGS} == {
            name: value for name, value in before.items() if name not in FORMER_SETTINGS}


# ------------------------------------------------------------------------------------------------- weights
@pytest.mark.parametrize("name, original", [("swav", "swav.pth.tar"), ("vissl", "vissl.pth")])
def test_converted_weights_go_back_bit_for_bit(tmp_path, name, original):
    source, converted = HERE / "converted" / original, HERE / "converted" / f"{name}.pdparams"
    assert convert.main([str(converted), str(tmp_path / "back.pth"), "--to", "torch"]) == 0
    expected, found = read(source).tensors, read(tmp_path / "back.pth").tensors
    assert list(found) == list(expected) and len(found) > 90
    assert_equal(found, expected, name)

    assert convert.main([str(source), str(tmp_path / "anew.pdparams"), "--verify"]) == 0
    anew = read_tree(tmp_path / "anew.pdparams")
    assert anew.pop(DESCRIPTION) == {"model": {"backbone": {"stem": "imagenet"}}, "transform": []}
    assert_equal(anew, read_tree(converted), name)


@pytest.mark.parametrize("place, file", [
    ("", "best"), ("latest", "latest"), ("best", "best"), ("epoch_1", "best"), ("latest.pdparams", "latest"),
    ("best.pdparams", "best"), ("epoch_1.pdparams", "best"), ("latest/passl.pdparams", "latest")])
def test_a_run_folder_opens_by_all_its_names(here, place, file):
    import passl

    run = copied(here, "swav")
    expected = read(run / file / "passl.pdparams").tensors
    assert (run / "best").resolve() != (run / "latest").resolve()
    found = {name: tensor.numpy() for name, tensor in passl.get_model(str(run / place)).state_dict().items()}
    assert list(found) == list(expected)
    # Prototypes are made unit length when a model is opened.
    prototypes = "res_model.prototypes.weight"
    np.testing.assert_allclose(found.pop(prototypes), expected[prototypes], rtol=0.1)
    assert_equal(found, {name: value for name, value in expected.items() if name != prototypes}, place)


@pytest.mark.parametrize("sample", ["linear_probe", "finetune"])
def test_a_trained_classifier_knows_its_classes(here, sample):
    import passl

    run = copied(here, sample)
    for place in (run, run / "best.pdparams"):
        classifier = passl.get_model(str(place))
        assert_equal({name: tensor.numpy() for name, tensor in classifier.state_dict().items()},
                     read(run / "best" / "passl.pdparams").tensors, sample)
        assert passl.inference_model(classifier, str(here / "images/class_0/000.png"))["pred_class"] in (
            "class_0", "class_1")


# ------------------------------------------------------------------------------------------------- embeddings
def test_embeddings_in_progress_are_continued(here):
    """The two of four batches that were done stay as they are, one row of them marked to show it."""
    copied(here, "swav")
    assert embed.main([*EMBED, "--output", "anew"]) == 0
    fresh, reference = json.loads(Path("anew/progress.json").read_text())["key"], np.load("anew/features.npy")

    shutil.copytree(HERE / "embeddings", "continued")
    progress = json.loads(Path("continued/progress.json").read_text())
    assert progress["batches"] == 2 and not progress["complete"]
    progress["key"]["images"] = fresh["images"]  # of paths and times of files, which are this machine's
    assert progress["key"] == fresh
    Path("continued/progress.json").write_text(json.dumps(progress))
    rows = np.lib.format.open_memmap("continued/features.partial.npy", mode="r+")
    done = len(rows) // 2
    np.testing.assert_allclose(rows[:done], reference[:done], rtol=0, atol=FEATURE_TOLERANCE)
    rows[3] = 99.0
    expected = np.array(rows[:done])
    rows.flush()
    del rows

    assert embed.main([*EMBED, "--output", "continued"]) == 0
    features = np.load("continued/features.npy")
    assert features.shape == reference.shape and len(features) == IMAGES
    assert_equal(features[:done], expected, "rows done")
    np.testing.assert_allclose(features[done:], reference[done:], rtol=0, atol=FEATURE_TOLERANCE)
    assert Path("continued/index.csv").read_text() == Path("anew/index.csv").read_text()
