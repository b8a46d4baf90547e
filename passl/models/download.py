"""Fetching a released file: local folder first, then the network with resume, progress and a checksum."""
from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Optional

from passl.weights.errors import CheckpointError

if TYPE_CHECKING:
    from passl.models.zoo import Release

_BLOCK = 1 << 20
_TIMEOUT = 30  # seconds without a byte


def weights_file(release: Release, folder: Optional[str] = None) -> str:
    """Path of a release's file: the one in `folder` (default `zoo.weights_folder()`), downloaded when it is not there.

    A download continues a partial one, is written aside and renamed when complete and of the right checksum.
    CheckpointError says which file to put where when there is no network, and refuses a file of another checksum.
    """
    from passl.models.zoo import weights_folder

    folder = folder or weights_folder()
    path = os.path.join(folder, release.file)
    if os.path.exists(path):
        _compare(path, release.sha256 or _remembered(path), "delete it to download it again")
        return path
    if not release.url or release.url.endswith(".zip"):
        where = f"unpack {release.url} and " if release.url else f"get it from {release.page}, "
        raise CheckpointError(f"'{release.name}' needs the file {release.file}: {where}put it at {path}")
    os.makedirs(folder, exist_ok=True)
    try:
        digest = _fetch(release.url, path + ".part")
    except (urllib.error.URLError, OSError) as error:
        raise CheckpointError(f"'{release.name}' needs the file {release.file}, and {release.url} cannot be reached "
                              f"({error}). Download it on a machine with a network and put it at {path} (or set "
                              "PASSL_HOME to the folder that has weights/ in it)") from None
    if release.sha256 and digest != release.sha256:
        os.unlink(path + ".part")
        raise CheckpointError(f"{release.url} has sha256 {digest}, expected {release.sha256}; the download was "
                              "deleted. Try again; if it persists, the file at that address has changed")
    with open(path + ".sha256", "w", encoding="ascii") as file:
        file.write(f"{digest}  {release.file}\n")
    os.replace(path + ".part", path)
    return path


def _fetch(url: str, path: str) -> str:
    """Download to `path`, continuing what is there; the sha256 of the whole file."""
    digest, done = hashlib.sha256(), 0
    if os.path.exists(path):
        done = _feed(digest, path)
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:  # 416: nothing after what we have, the file was complete
            raise
        return digest.hexdigest()
    with contextlib.closing(answer):
        resumed = done > 0 and answer.status == 206
        if not resumed:
            digest, done = hashlib.sha256(), 0
        total = done + int(answer.headers.get("Content-Length") or 0)
        with open(path, "ab" if resumed else "wb") as file:
            while True:
                block = answer.read(_BLOCK)
                if not block:
                    break
                file.write(block)
                digest.update(block)
                done += len(block)
                _progress(os.path.basename(path), done, total)
    if total and done < total:
        raise OSError(f"the connection ended after {done} of {total} bytes; call again to continue")
    return digest.hexdigest()


def _feed(digest, path: str) -> int:
    done = 0
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            digest.update(block)
            done += len(block)
    return done


def _progress(name: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        share = f" of {total / 1e6:.0f} MB ({100 * done / total:.0f} %)" if total else " MB"
        print(f"\r{name}: {done / 1e6:.0f}{share}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _remembered(path: str) -> Optional[str]:
    try:
        with open(path + ".sha256", encoding="ascii") as file:
            return file.read(64)
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _compare(path: str, expected: Optional[str], advice: str) -> None:
    """Refuse a file whose checksum is known and different."""
    if not expected:
        return
    digest = hashlib.sha256()
    _feed(digest, path)
    if digest.hexdigest() != expected:
        raise CheckpointError(f"{path} has sha256 {digest.hexdigest()}, expected {expected}; {advice}")
