import hashlib
import http.server
import threading

import numpy as np
import pytest

from passl.cli import list_models as command
from passl.models import zoo
from passl.models.download import weights_file
from passl.weights import CheckpointError, recognise
from passl.weights.keymaps import LAYOUTS
from passl.weights.reader import Checkpoint
from tests.weights.checkpoints import filled, legacy_stream, pretraining_shapes, renamed


@pytest.fixture
def server(tmp_path):
    """A file server with resume; `requests` lists the Range header of each request."""
    content = np.random.RandomState(0).bytes(3_000_000)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            self.server.requests.append(asked)
            start = int(asked.split("=")[1].rstrip("-")) if asked else 0
            body = content[start:]
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:self.server.break_after] if self.server.break_after else body)

        def log_message(self, *arguments):
            pass

    running = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    running.requests, running.break_after, running.content = [], None, content
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    running.url = f"http://127.0.0.1:{running.server_port}/w.pth"
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def entry(url, sha256=None, file="w.pth"):
    return zoo.Release("tiny", "SwAV", "resnet50", file, url, "the page", "swav", sha256=sha256)


def test_download_is_renamed_when_complete_and_not_repeated(server, tmp_path):
    digest = hashlib.sha256(server.content).hexdigest()
    path = weights_file(entry(server.url, digest), str(tmp_path / "new"))
    assert (tmp_path / "new" / "w.pth").read_bytes() == server.content
    assert weights_file(entry(server.url, digest), str(tmp_path / "new")) == path
    assert server.requests == [None]
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["w.pth", "w.pth.sha256"]


def test_broken_download_continues_where_it_ended(server, tmp_path):
    server.break_after = 1_000_000
    with pytest.raises(CheckpointError, match="ended after|cannot be reached"):
        weights_file(entry(server.url), str(tmp_path))
    kept = (tmp_path / "w.pth.part").stat().st_size
    server.break_after = None
    weights_file(entry(server.url, hashlib.sha256(server.content).hexdigest()), str(tmp_path))
    assert server.requests == [None, f"bytes={kept}-"] and kept > 0
    assert (tmp_path / "w.pth").read_bytes() == server.content


def test_checksum_mismatch_is_refused_and_deleted(server, tmp_path):
    with pytest.raises(CheckpointError, match="expected 0000"):
        weights_file(entry(server.url, "0" * 64), str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_file_that_changed_since_its_download_is_refused(server, tmp_path):
    path = weights_file(entry(server.url), str(tmp_path))
    with open(path, "r+b") as file:
        file.write(b"changed")
    with pytest.raises(CheckpointError, match="delete it to download it again"):
        weights_file(entry(server.url), str(tmp_path))


@pytest.mark.parametrize("url, message", [
    ("http://127.0.0.1:9/w.pth", "cannot be reached"), (None, "get it from the page"),
    ("http://x/pretrained.zip", "unpack http://x/pretrained.zip")])
def test_without_network_it_says_which_file_goes_where(tmp_path, url, message):
    with pytest.raises(CheckpointError, match=message) as error:
        weights_file(entry(url), str(tmp_path))
    assert str(tmp_path / "w.pth") in str(error.value)


def test_every_release_has_its_entry():
    files = {release.file for release in zoo.RELEASES}
    assert {"swav_800ep_pretrain.pth.tar", "swav_RN50w5_400ep_pretrain.pth.tar", "swav_400ep_bs256_pretrain.pth.tar",
            "deepclusterv2_400ep_2x224_pretrain.pth.tar", "selav2_400ep_pretrain.pth.tar",
            "swav_800ep_eval_linear.pth.tar", "alexnet-10x3k-wRot.pth", "resnet-10x3k.pth"} <= files
    assert len(files) == len(zoo.RELEASES) == len(zoo.list_models()) == 25


@pytest.mark.parametrize("name", zoo.list_models())
def test_entries_are_complete(name):
    release = zoo.release(name)
    assert release.keys in LAYOUTS and release.licence and release.page.startswith("http")
    if release.method in ("DeepCluster-v2", "SeLa-v2"):
        assert release.prototypes == (3000, 3000, 3000)
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


def test_get_model_takes_the_file_as_it_is(tmp_path):
    state = filled(pretraining_shapes((11,), 12, 6, blocks=(2, 2, 2, 2)))
    path = tmp_path / "swav.pth.tar"
    path.write_bytes(legacy_stream(renamed(state, str, "module.")))
    network = zoo.get_model("resnet26", str(path), base_channels=8)
    np.testing.assert_array_equal(network.prototypes.weight.numpy(), state["prototypes.weight"].T)
    np.testing.assert_array_equal(network.encoder.layer4[1].bn3._variance.numpy(), state["layer4.1.bn3.running_var"])
    fresh = zoo.get_model("resnet26", str(path), base_channels=8, nmb_prototypes=4)
    assert fresh.prototypes.weight.shape == [6, 4]
    np.testing.assert_array_equal(fresh.encoder.conv1.weight.numpy(), state["conv1.weight"])
    pooled = zoo.get_model("resnet26", str(path), base_channels=8, output_dim=0, nmb_prototypes=0)
    assert pooled.projection_head is None


def test_get_model_finds_the_release_in_passl_home(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSL_HOME", str(tmp_path))
    folder = tmp_path / "weights"
    folder.mkdir()
    state = filled(pretraining_shapes((11,), 12, 6, blocks=(3, 4, 6, 3)))
    (folder / "swav_800ep_pretrain.pth.tar").write_bytes(legacy_stream(state))
    network = zoo.get_model("swav_resnet50", pretrained=True, base_channels=8)
    np.testing.assert_array_equal(network.encoder.conv1.weight.numpy(), state["conv1.weight"])


def test_unknown_names_point_at_the_nearest():
    with pytest.raises(KeyError, match="did you mean 'swav_resnet50w2'"):
        zoo.release("swav_resnet50_w2")
    with pytest.raises(ValueError, match="is an architecture"):
        zoo.get_model("resnet18", pretrained=True)
    with pytest.raises(KeyError, match="no model is called"):
        zoo.get_model("resnet1234")


def test_list_models_command(capsys):
    assert command.main([]) == 0
    out = capsys.readouterr().out
    assert "swav_RN50w5_400ep_pretrain.pth.tar" in out and "78.5" in out
    assert command.main(["swav_resnet50w5"]) == 0
    assert "CC BY-NC 4.0" in capsys.readouterr().out
    assert command.main(["nothing*"]) == 1
