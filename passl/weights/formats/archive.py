"""Zip archives (PyTorch, npz), read in place: stored members are views of the mapped file."""
from __future__ import annotations

import mmap
import re
import struct
import zipfile
import zlib
from typing import Any, Dict, KeysView, Optional, cast

from passl.errors import CheckpointError, UnsafeCheckpoint

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_CHECK_BLOCK = 1 << 24
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")


class Archive:
    """Members by name; nothing is ever extracted to a file. data: the whole of a mapped file.

    Refused with a CheckpointError or UnsafeCheckpoint: absolute names and `..`, names that occur twice, encrypted
    members, members that overlap (sizes that sum to more than the file), inflation beyond `expansion` times the file.
    """

    def __init__(self, data: memoryview, expansion: int = 40, check_sums: bool = True):
        self._data = data
        self._mapped = cast(Any, data.obj)  # the mmap; zipfile's annotations know files only
        self._check_sums = check_sums
        try:
            members = zipfile.ZipFile(self._mapped).infolist()
        except (zipfile.BadZipFile, struct.error, ValueError, OverflowError, NotImplementedError, EOFError, OSError,
                UnicodeDecodeError, IndexError) as error:
            raise CheckpointError(f"damaged zip archive: {str(error)[:120]}") from None
        self._members: Dict[str, zipfile.ZipInfo] = {}
        for member in members:
            name = member.filename
            if _ABSOLUTE.match(name) or ".." in name.replace("\\", "/").split("/"):
                raise UnsafeCheckpoint(f"the archive holds the path '{name[:80]}', which leads outside of it")
            if name in self._members:
                raise CheckpointError(f"the archive holds '{name[:80]}' twice")
            if member.flag_bits & 1:
                raise CheckpointError(f"archive member '{name[:80]}' is encrypted")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise CheckpointError(f"archive member '{name[:80]}' has compression {member.compress_type}")
            self._members[name] = member
        stored = sum(member.compress_size for member in members)
        claimed = sum(member.file_size for member in members)
        if stored > len(data):
            raise UnsafeCheckpoint(f"members of {stored} bytes in a file of {len(data)}: they overlap")
        if claimed > expansion * len(data) + (1 << 20):
            raise UnsafeCheckpoint(f"the archive would inflate from {len(data)} to {claimed} bytes")

    def names(self) -> KeysView:
        """Names of the members, in the order of the archive's directory."""
        return self._members.keys()

    def read(self, name: str) -> memoryview:
        """The content of a member: a view of the file when stored, inflated to exactly its claimed size otherwise."""
        member = self._members[name]
        start = member.header_offset
        header = self._data[start:start + _LOCAL_HEADER.size]
        if len(header) < _LOCAL_HEADER.size or bytes(header[:4]) != b"PK\x03\x04":
            raise CheckpointError(f"archive member '{name[:80]}' has no header")
        name_length, extra_length = _LOCAL_HEADER.unpack(header)[-2:]
        start += _LOCAL_HEADER.size + name_length + extra_length
        packed = self._data[start:start + member.compress_size]
        if len(packed) != member.compress_size:
            raise CheckpointError(f"archive member '{name[:80]}' reaches beyond the end of the file (truncated?)")
        content = packed
        if member.compress_type != zipfile.ZIP_STORED:
            try:  # one byte more shows a member larger than it claims
                content = memoryview(zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, member.file_size + 1))
            except zlib.error as error:
                raise CheckpointError(f"archive member '{name[:80]}': {error}") from None
        if len(content) != member.file_size:
            raise CheckpointError(f"archive member '{name[:80]}' has {len(content)} bytes, claims {member.file_size}")
        if self._check_sums and self._checksum(content, start if content is packed else None) != member.CRC:
            raise CheckpointError(f"archive member '{name[:80]}' does not match its checksum: the file is damaged "
                                  "(read(..., check_sums=False) if the writer left checksums out)")
        return content

    def _checksum(self, content: memoryview, position: Optional[int]) -> int:
        """CRC-32 of `content`, which lies at `position` of the file; what was read is given back block by block, or an
        optimizer that nobody asked for would stay in memory beside the weights."""
        value = 0
        for start in range(0, len(content), _CHECK_BLOCK):
            block = content[start:start + _CHECK_BLOCK]
            value = zlib.crc32(block, value)
            if position is not None and hasattr(mmap, "MADV_DONTNEED"):
                first = (position + start) // mmap.PAGESIZE * mmap.PAGESIZE
                self._mapped.madvise(mmap.MADV_DONTNEED, first, position + start + len(block) - first)
        return value
