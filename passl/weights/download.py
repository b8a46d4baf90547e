"""Fetching a released file: local folder first, then the network with resume, progress and a check of what came."""
from __future__ import annotations

import contextlib
import http.client
import logging
import os
import re
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import IO, TYPE_CHECKING, Optional, Tuple

from tqdm import tqdm

from passl.errors import CheckpointError
from passl.files import locked, sha256

if TYPE_CHECKING:
    from passl.weights.zoo import Release

_BLOCK = 1 << 20
_TIMEOUT = 30  # seconds without a byte
_LOGGER = logging.getLogger("passl")


def weights_file(release: Release, folder: Optional[str] = None) -> str:
    """Path of a release's file: the one in `folder` (default `zoo.weights_folder()`), downloaded when it is not there.

    A download continues a partial one of the same file, is written aside and renamed when complete and checked: by
    its checksum, or by reading it as weights where the authors publish none. Of several processes one downloads and the
    others wait for it. CheckpointError says which file to put where when there is no network, and refuses a file of
    another checksum or one that holds no weights.
    """
    from passl.weights.zoo import weights_folder

    folder = folder or weights_folder()
    path = os.path.join(folder, release.file)
    if not os.path.exists(path):
        if release.member or not release.url:
            where = (f"unpack {release.url} and put its {release.member} at" if release.member else
                     f"get it from {release.page}, put it at")
            raise CheckpointError(f"'{release.name}' needs the file {release.file}: {where} {path}")
        try:
            os.makedirs(folder, exist_ok=True)
            downloaded = _download(release, release.url, path)
        except (OSError, http.client.HTTPException) as error:
            raise CheckpointError(f"'{release.name}' needs the file {release.file}, and downloading {release.url} to "
                                  f"{path} failed ({error or type(error).__name__}). Download it on a machine with a "
                                  "network and put it there, or set PASSL_HOME to the folder that has weights/ in it"
                                  ) from None
        if downloaded:
            return path
    # The sum of the first download, unless writing the note was cut short.
    expected = release.sha256 or "".join(re.findall(r"^[0-9a-f]{64}\b", _note(path + ".sha256")))
    if expected and (digest := sha256(path)) != expected:
        own = "" if release.sha256 else f", or delete {path}.sha256 if you replaced the file yourself"
        raise CheckpointError(f"{path} has sha256 {digest}, expected {expected}: the file is damaged or another one; "
                              f"delete it to download it again{own}")
    return path


def _download(release: Release, url: str, path: str) -> bool:
    """Fetch the file unless another process did so meanwhile; whether it was this one."""
    part = path + ".part"
    with locked(part, on_wait=lambda: _LOGGER.info(f"another process is downloading {part}; waiting for it")) as file:
        if os.path.exists(path):
            _remove(part)
            return False
        _fetch(url, file)
        try:
            digest = _check(release, part)
        except CheckpointError:
            _remove(part, part + ".etag")
            raise
        with open(path + ".sha256", "w", encoding="ascii") as note:
            note.write(f"{digest}  {release.file}\n")
        _remove(part + ".etag")
        os.replace(part, path)
    return True


def _fetch(url: str, file: IO[bytes]) -> None:
    """Complete `file` from `url`, continuing what is there if it is a beginning of what the server has now."""
    validator = _note(file.name + ".etag")
    done = os.fstat(file.fileno()).st_size
    if done and validator:
        try:
            request = urllib.request.Request(url, headers={"Range": f"bytes={done}-", "If-Range": validator})
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
                first, total = _content_range(answer.headers)
                if answer.status == 206 and first == done:
                    return _append(answer, file, done, total)
                if answer.status == 200:  # the file changed, or the server knows no ranges: all of it comes
                    return _begin(answer, file)
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            if _content_range(error.headers)[1] == done and _validator(error.headers) in (None, validator):
                return None  # nothing comes after what is here: it is complete
    with urllib.request.urlopen(urllib.request.Request(url), timeout=_TIMEOUT) as answer:
        return _begin(answer, file)


def _begin(answer: http.client.HTTPResponse, file: IO[bytes]) -> None:
    """The whole file, in place of what is there; beside it, what the server calls this state of it."""
    file.truncate(0)
    validator = _validator(answer.headers)
    if validator:
        with open(file.name + ".etag", "w", encoding="latin-1") as note:
            note.write(validator)
    else:
        _remove(file.name + ".etag")
    length = answer.headers.get("Content-Length", "")
    _append(answer, file, 0, int(length) if length.isdecimal() else None)


def _append(answer: http.client.HTTPResponse, file: IO[bytes], done: int, total: Optional[int]) -> None:
    with tqdm(desc=os.path.basename(file.name), initial=done, total=total, unit="B", unit_scale=True,
              disable=None) as bar:  # None: silent unless on a terminal
        for block in iter(lambda: answer.read(_BLOCK), b""):
            file.write(block)
            done += len(block)
            bar.update(len(block))
    file.flush()
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done} of {total} bytes; call again to continue")


def _validator(headers: Message) -> Optional[str]:
    """What names this state of the file: a strong ETag, else its date (RFC 9110 allows no other in If-Range)."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")


def _content_range(headers: Message) -> Tuple[Optional[int], Optional[int]]:
    """(first byte, size of the whole file) of a Content-Range header; None where it says nothing."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", (headers.get("Content-Range") or "").strip())
    first, total = (int(digits) if digits else None for digits in (match.groups() if match else (None, None)))
    return first, total


def _check(release: Release, part: str) -> str:
    """The sha256 of the finished file; CheckpointError when it is not the release's."""
    digest = sha256(part)
    if release.sha256 and digest != release.sha256:
        raise CheckpointError(f"{release.url} has sha256 {digest}, expected {release.sha256}; the download was "
                              "deleted. Try again; if it persists, the file at that address has changed")
    if not release.sha256:
        from passl.weights import read, recognise

        try:
            recognise(read(part))
        except CheckpointError as error:
            with open(part, "rb") as file:
                page = re.match(rb"\s*<(!doctype|html|\?xml)", file.read(200), re.IGNORECASE)
            what = ("a web page came instead of weights: log in or accept the terms in a browser" if page else
                    f"what came holds no weights ({error})")
            raise CheckpointError(f"{release.url}: {what}; the download was deleted. Get {release.file} from "
                                  f"{release.page} and put it at {part[:-len('.part')]}") from None
    return digest


def _remove(*paths: str) -> None:
    for path in paths:
        Path(path).unlink(missing_ok=True)


def _note(path: str) -> str:
    """The first characters of a small file beside the weights; nothing without one."""
    with contextlib.suppress(FileNotFoundError), open(path, encoding="latin-1") as file:
        return file.read(1000).strip()
    return ""
