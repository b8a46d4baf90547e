"""Files that are written whole or not at all, locks between processes, and checksums."""
from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
from pathlib import Path
from typing import IO, Any, Callable, Iterator, Optional, Union

PathLike = Union[str, "os.PathLike[str]"]
_BLOCK = 1 << 22


@contextlib.contextmanager
def written_aside(path: PathLike, mode: str = "wb", **options: Any) -> Iterator[IO]:
    """A file that becomes `path` when the block ends without an error, and vanishes otherwise; folders are made.

    mode and options are those of `open`. The bytes are on the disk before the name is: neither a kill nor a power cut
    leaves half a file.
    """
    path = os.fspath(path)
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):  # /dev/stdout, a pipe
        with open(path, mode, **options) as file:
            yield file
        return
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    # Opened by name and not by `tempfile`, so that it gets the user's umask; of its own for every process and call.
    aside = f"{path}.{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        with open(aside, mode.replace("w", "x"), **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # when it could not even be opened
            os.unlink(aside)
        raise


def written_text(path: PathLike) -> contextlib.AbstractContextManager:
    """`written_aside` in UTF-8, lines ending as they are given; bytes of file names that are no text come back."""
    return written_aside(path, "w", encoding="utf-8", errors="surrogateescape", newline="")


def write_text(path: PathLike, text: str) -> None:
    """`text` in UTF-8 as the whole content of `path`, or nothing; bytes of file names that are no text come back."""
    with written_text(path) as file:
        file.write(text)


def flush(path: PathLike) -> None:
    """Bring a file's bytes, or the names in a directory, to the disk: what a power cut can empty is no checkpoint."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some file systems have no such call for directories
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not os.path.isdir(path):
            raise
    finally:
        os.close(descriptor)


def sha256(path: PathLike) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def locked(path: PathLike, busy: Optional[Exception] = None, on_wait: Callable[[], None] = lambda: None
           ) -> Iterator[IO]:
    """The file `path`, open for appending and held by this process alone; a process that dies lets go of it.

    busy: raised when another process holds it; None calls `on_wait` and waits. The lock is on the file itself: after
    waiting, the name may stand for another file (the former holder has renamed or deleted his), and then the wait
    begins anew.
    """
    while True:
        with open(path, "a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if busy:
                    raise busy from None
                on_wait()
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, path):
                yield file
                return


def _is_at(file: IO, path: PathLike) -> bool:
    """Whether `path` still names the open `file`; others may rename and delete at any moment, so it is asked once."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def writable_folder(folder: Path, remedy: str) -> None:
    """Create `folder` and prove that files can be written in it; PermissionError with `remedy` otherwise."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise PermissionError(f"cannot write to {folder} ({error.strerror}): {remedy}") from None
