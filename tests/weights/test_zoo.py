import ast
import re

import numpy as np
import pytest

import passl
from passl.cli import list_models as command
from passl.registry import BACKBONES
from passl.weights import recognise, zoo
from passl.weights.formats.reader import Checkpoint
from passl.weights.layouts.keymaps import LAYOUTS
from tests.weights.checkpoints import pretraining_shapes

# Published facts: name -> epochs, crops, prototype heads, hidden units of the head, its batch norm, top-1.
PUBLISHED = {
    "swav_100ep_pretrain": (100, "2x224+6x96", 1, 2048, True, 72.1),
    "swav_200ep_pretrain": (200, "2x224+6x96", 1, 2048, True, 73.9),
    "swav_400ep_pretrain": (400, "2x224+6x96", 1, 2048, True, 74.6),
    "swav_800ep_pretrain": (800, "2x224+6x96", 1, 2048, True, 75.3),
    "swav_200ep_bs256_pretrain": (200, "2x224+6x96", 1, 2048, True, 72.7),
    "swav_400ep_bs256_pretrain": (400, "2x224+6x96", 1, 2048, True, 74.3),
    "swav_400ep_2x224_pretrain": (400, "2x224", 1, 2048, True, 70.1),
    "swav_RN50w2_400ep_pretrain": (400, "2x224+4x96", 1, 8192, True, 77.3),
    "swav_RN50w4_400ep_pretrain": (400, "2x224+4x96", 1, 8192, True, 77.9),
    "swav_RN50w5_400ep_pretrain": (400, "2x224+4x96", 1, 10240, False, 78.5),
    "deepclusterv2_800ep_pretrain": (800, "2x224+6x96", 3, 2048, True, 75.2),
    "deepclusterv2_400ep_pretrain": (400, "2x160+4x96", 3, 2048, True, 74.3),
    "deepclusterv2_400ep_2x224_pretrain": (400, "2x224", 3, 2048, True, 70.2),
    "selav2_400ep_pretrain": (400, "2x160+4x96", 3, 2048, True, 71.8),
    "selav2_400ep_2x224_pretrain": (400, "2x224", 3, 2048, True, 67.2),
}
SCORES = {
    "swav_800ep_eval_linear.pth.tar": 75.3, "alexnet-10x3k-wRot.pth": None, "resnet-10x3k.pth": 61.5,
    "resnet18-1k_pp.pth": 53.3, "resnet50-1k_pp.pth": 63.5, "resnet50-10x3k_pp.pth": 68.8,
    "swav_resnet50_in1k_800ep_bz4096_pretrained.pdparams": 75.3, "swav_resnet50_in1k_linearprobe.pdparams": 75.3,
    "swav_resnet50_in1k_finetune_1percent.pdparams": 55.0, "swav_resnet50_in1k_finetune_10percent.pdparams": 69.0,
}
BY_FILE = {release.file: release for release in zoo.RELEASES}


def test_every_release_has_its_entry():
    assert {*(f"{name}.pth.tar" for name in PUBLISHED), *SCORES} == set(BY_FILE)
    assert len(zoo.list_models()) == 25


def test_the_table_is_part_of_an_installation(repository):
    """The wheel holds Python files and what pyproject.toml names."""
    package = repository / "passl"
    others = {str(path.relative_to(package)) for path in package.rglob("*")
              if path.is_file() and path.suffix not in (".py", ".pyc")}
    named = re.search(r"^passl = (\[.*?\])$", (repository / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    found = {str(path.relative_to(package)) for pattern in ast.literal_eval(named[1]) for path in package.glob(pattern)}
    assert others == found and "weights/releases.yaml" in others


@pytest.mark.parametrize("name", PUBLISHED)
def test_entry_says_what_was_published(name):
    release = BY_FILE[f"{name}.pth.tar"]
    assert (release.epochs, release.crops, len(release.prototypes), release.hidden, release.head_batch_norm,
            release.accuracy) == PUBLISHED[name]
    assert set(release.prototypes) == {3000} and release.embedding == 128
    assert release.url == f"https://dl.fbaipublicfiles.com/deepcluster/{name}.pth.tar"


@pytest.mark.parametrize("file", SCORES)
def test_other_entries_have_the_published_score(file):
    assert BY_FILE[file].accuracy == SCORES[file]


def test_files_of_an_archive_name_their_place_in_it():
    members = {release.member for release in zoo.RELEASES if release.url.endswith(".zip")}
    assert members == {"self-label_models/alexnet-10x3k-wRot.pth", "self-label_models/resnet-10x3k.pth"}


@pytest.mark.parametrize("name", zoo.list_models())
def test_entries_are_complete(name):
    release = zoo.release(name)
    assert release.keys in LAYOUTS and release.licence and release.page.startswith("http")
    assert release.convert_only == (release.architecture not in BACKBONES)
    assert (name in passl.list_models()) == (not release.convert_only)
    if release.page.startswith("https://github.com/facebookresearch"):
        assert "NC" in release.licence


@pytest.mark.parametrize("name", ["swav_resnet50", "swav_resnet50w5", "deepclusterv2_resnet50"])
def test_entry_agrees_with_what_its_key_table_is_recognised_as(name):
    release = zoo.release(name)
    width = {"resnet50": 1, "resnet50w5": 5}[release.architecture]
    shapes = pretraining_shapes(release.prototypes, release.hidden, 128, release.head_batch_norm, blocks=(3, 4, 6, 3),
                                channels=64 * width)
    arrays = {f"module.{key}": np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    found = recognise(Checkpoint(release.file, "torch-legacy", arrays))[1]
    assert (found.layout, found.architecture) == (release.keys, release.architecture)
    assert (found.hidden, tuple(found.prototypes), found.head_batch_norm) == (
        release.hidden, release.prototypes, release.head_batch_norm)
    heads = [key.rpartition(".")[0] for key in arrays if "projection_head" in key or "prototypes" in key]
    assert release.head_keys() == list(dict.fromkeys(heads))


def test_unknown_names_point_at_the_nearest():
    with pytest.raises(KeyError, match="did you mean 'swav_resnet50w2'"):
        zoo.release("swav_resnet50_w2")


def test_list_models_command(capsys):
    assert command.main([]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 120
    for release in zoo.RELEASES:
        assert release.name in out and release.file in out and release.page in out and release.licence in out
    assert [line.split()[0] for line in out.splitlines() if "passl-convert only" in line] == [
        "sela_alexnet", "sela_resnet50"]
    assert command.main(["nothing*"]) == 1


@pytest.mark.parametrize("name", zoo.list_models())
def test_list_models_command_prints_the_whole_entry(name, capsys):
    release = zoo.release(name)
    assert command.main([name]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 120
    facts = [release.method, release.architecture, release.crops, release.licence, release.page, release.url,
             release.member, release.file, LAYOUTS[release.keys].name, *release.head_keys(),
             *(str(fact) for fact in (release.hidden, release.epochs, release.accuracy, release.embedding) if fact)]
    assert [fact for fact in facts if fact not in out] == []
    assert ("passl-convert only" in out) == release.convert_only
