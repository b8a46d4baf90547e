"""Downloads from a local server: resumed, checked, taken by one process at a time."""
import email.utils
import hashlib
import http.server
import multiprocessing
import os
import threading
import time

import numpy as np
import pytest

from passl.files import locked
from passl.weights import CheckpointError, zoo
from passl.weights.download import weights_file
from tests.weights.checkpoints import filled, legacy_stream, resnet_shapes

WEIGHTS = legacy_stream(filled(resnet_shapes(channels=32)))


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.content` with ranges as RFC 9110 has them; `server.fault` makes it misbehave."""

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.requests.append(asked)
        content, fault = server.content, server.fault
        if fault == "garbage":
            self.wfile.write(b"this is no HTTP\r\n\r\n")
            return
        fresh = self.headers.get("If-Range") in (None, server.etag, server.date)
        start = int(asked.split("=")[1].rstrip("-")) if asked and (fresh or fault == "ignores If-Range") else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        first = start - 10 if fault == "shifted range" and start else start
        body = content[first:]
        self.send_response(206 if start else 200)
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.date:
            self.send_header("Last-Modified", server.date)
        if start:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if fault == "chunk cut short":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"ff\r\nshort")
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for piece in range(0, len(body), 1 << 16) if fault == "slow" else ():
            self.wfile.write(body[piece:piece + (1 << 16)])
            time.sleep(0.02)
        if fault != "slow":
            self.wfile.write(body[:len(body) // 3] if fault == "cut" else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.requests, running.content, running.fault = [], WEIGHTS, ""
    running.etag, running.date = '"first"', email.utils.formatdate(0, usegmt=True)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    running.url = f"http://127.0.0.1:{running.server_port}/w.pth"
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def entry(url, sha256=None, **facts):
    return zoo.Release("tiny", "SwAV", "resnet50", "w.pth", url, "https://the.page", "swav", sha256=sha256, **facts)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_download_is_renamed_when_complete_and_not_repeated(server, tmp_path):
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    path = weights_file(entry(server.url, digest), str(tmp_path / "new"))
    assert (tmp_path / "new" / "w.pth").read_bytes() == WEIGHTS
    assert weights_file(entry(server.url, digest), str(tmp_path / "new")) == path
    assert server.requests == [None]
    assert names(tmp_path / "new") == ["w.pth", "w.pth.sha256"]


@pytest.mark.parametrize("named_by", ["etag", "date"])
def test_broken_download_continues_where_it_ended(server, tmp_path, named_by):
    server.fault = "cut"
    if named_by == "date":
        server.etag = 'W/"weak"'  # may not be used for ranges
    with pytest.raises(CheckpointError, match="ended after .* call again to continue"):
        weights_file(entry(server.url), str(tmp_path))
    kept = (tmp_path / "w.pth.part").stat().st_size
    server.fault = ""
    weights_file(entry(server.url), str(tmp_path))
    assert server.requests == [None, f"bytes={kept}-"] and kept == len(WEIGHTS) // 3
    assert (tmp_path / "w.pth").read_bytes() == WEIGHTS
    assert names(tmp_path) == ["w.pth", "w.pth.sha256"]


def test_complete_partial_file_is_not_downloaded_again(server, tmp_path):
    (tmp_path / "w.pth.part").write_bytes(WEIGHTS)
    (tmp_path / "w.pth.part.etag").write_text(server.etag)
    weights_file(entry(server.url), str(tmp_path))
    assert server.requests == [f"bytes={len(WEIGHTS)}-"] and (tmp_path / "w.pth").read_bytes() == WEIGHTS


@pytest.mark.parametrize("fault, etag, requests", [
    ("", '"second"', 1),  # the file changed: the server sends all of it
    ("shifted range", '"first"', 2),  # the answer begins elsewhere
    ("", None, 1)])  # nothing tells whether the part belongs to this file
def test_part_of_another_file_is_not_continued(server, tmp_path, fault, etag, requests):
    server.fault = "cut"
    if etag is None:
        server.etag = server.date = None
    with pytest.raises(CheckpointError):
        weights_file(entry(server.url), str(tmp_path))
    server.requests.clear()
    server.etag, server.fault = etag, fault
    server.content = legacy_stream(filled(resnet_shapes(channels=16, bottleneck=False)))
    weights_file(entry(server.url), str(tmp_path))
    assert (tmp_path / "w.pth").read_bytes() == server.content and len(server.requests) == requests


def test_checksum_is_of_the_file_on_disk(server, tmp_path):
    """Bytes that were damaged on disk between two calls do not pass for what was received."""
    server.fault = "cut"
    with pytest.raises(CheckpointError):
        weights_file(entry(server.url), str(tmp_path))
    with open(tmp_path / "w.pth.part", "r+b") as file:
        file.seek(-20, 2)
        file.write(b"damaged")
    server.fault = ""
    with pytest.raises(CheckpointError, match="expected"):
        weights_file(entry(server.url, hashlib.sha256(WEIGHTS).hexdigest()), str(tmp_path))
    assert names(tmp_path) == []


def test_checksum_mismatch_is_refused_and_deleted(server, tmp_path):
    with pytest.raises(CheckpointError, match="expected 0000"):
        weights_file(entry(server.url, "0" * 64), str(tmp_path))
    assert names(tmp_path) == []


@pytest.mark.parametrize("content, message", [
    (b"<!DOCTYPE html><html><body>Please log in</body></html>", "a web page came instead of weights"),
    (np.random.RandomState(0).bytes(1000), "holds no weights .*not a weight file"),
    (WEIGHTS[:-100], "holds no weights"), (legacy_stream({"nothing": np.zeros(3)}), "none of its 1 keys")])
def test_first_download_is_read_before_it_is_accepted(server, tmp_path, content, message):
    server.content = content
    with pytest.raises(CheckpointError, match=message) as error:
        weights_file(entry(server.url), str(tmp_path))
    assert "https://the.page" in str(error.value) and str(tmp_path / "w.pth") in str(error.value)
    assert names(tmp_path) == []


def test_file_that_changed_since_its_download_is_refused(server, tmp_path):
    path = weights_file(entry(server.url), str(tmp_path))
    with open(path, "r+b") as file:
        file.write(b"changed")
    with pytest.raises(CheckpointError, match="delete it to download it again, or delete .*sha256 if you replaced"):
        weights_file(entry(server.url), str(tmp_path))
    (tmp_path / "w.pth.sha256").write_text("cut sho")  # a note that was not written to its end says nothing
    assert weights_file(entry(server.url), str(tmp_path)) == path


@pytest.mark.parametrize("fault", ["garbage", "chunk cut short"])
def test_faulty_answers_are_clean_errors(server, tmp_path, fault):
    server.fault = fault
    with pytest.raises(CheckpointError, match="downloading http.* failed"):
        weights_file(entry(server.url), str(tmp_path))


def test_folder_that_cannot_be_made_is_a_clean_error(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Not a directory.*PASSL_HOME"):
        weights_file(entry(server.url), str(tmp_path / "file" / "weights"))


@pytest.mark.parametrize("facts, message", [
    ({"url": "http://127.0.0.1:9/w.pth"}, "failed .*refused"), ({"url": None}, "get it from https://the.page"),
    ({"url": "http://x/a.zip", "member": "inner/w.pth"}, "unpack http://x/a.zip and put its inner/w.pth at")])
def test_without_network_it_says_which_file_goes_where(tmp_path, facts, message):
    with pytest.raises(CheckpointError, match=message) as error:
        weights_file(entry(**facts), str(tmp_path))
    assert str(tmp_path / "w.pth") in str(error.value)


@pytest.mark.dist
@pytest.mark.parametrize("etag", ['"first"', None])
def test_of_several_processes_one_downloads(server, tmp_path, etag):
    server.fault, server.etag, server.date = "slow", etag, None
    release = entry(server.url, hashlib.sha256(WEIGHTS).hexdigest())
    with multiprocessing.get_context("fork").Pool(3) as pool:
        paths = pool.starmap_async(weights_file, [(release, str(tmp_path))] * 3, chunksize=1).get(timeout=60)
    assert set(paths) == {str(tmp_path / "w.pth")} and server.requests == [None]
    assert (tmp_path / "w.pth").read_bytes() == WEIGHTS and names(tmp_path) == ["w.pth", "w.pth.sha256"]


@pytest.mark.parametrize("look", [1, 2])
def test_a_part_that_goes_away_between_two_looks_is_claimed_anew(tmp_path, monkeypatch, look):
    part, looks, stat = tmp_path / "w.pth.part", [], os.stat

    def other_process_is_faster(path, *arguments, **options):
        if str(path) == str(part):
            looks.append(path)
            if len(looks) == look:
                part.unlink()
        return stat(path, *arguments, **options)

    claim = locked(str(part))
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", other_process_is_faster)
        file = claim.__enter__()
    assert os.path.samestat(os.fstat(file.fileno()), part.stat())
    claim.__exit__(None, None, None)


@pytest.mark.dist
def test_a_process_that_dies_lets_go_of_its_part(server, tmp_path):
    server.fault = "slow"
    process = multiprocessing.get_context("fork").Process(target=weights_file, args=(entry(server.url), str(tmp_path)))
    process.start()
    part = tmp_path / "w.pth.part"
    end = time.monotonic() + 20
    while time.monotonic() < end and not (part.exists() and part.stat().st_size):
        time.sleep(0.005)
    process.kill()
    process.join()
    kept, server.fault = part.stat().st_size, ""
    weights_file(entry(server.url), str(tmp_path))
    assert server.requests == [None, f"bytes={kept}-"] and (tmp_path / "w.pth").read_bytes() == WEIGHTS
