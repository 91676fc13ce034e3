"""Archives: the wanted members, by exact name, regular files only, up to a size."""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from llmbole.data.convert.report import DataError

SIZE_LIMIT = 64 << 30
BLOCK = 1 << 20


def unpack(archive: Path, members: Mapping[str, str], folder: Path, *, limit: int = SIZE_LIMIT) -> None:
    """Unpack members of a zip or tar archive.

    Args:
        archive: The archive.
        members: File name to the member it comes from.
        folder: Where the files go; nothing is ever written outside it.
        limit: Bytes that all of them may have unpacked.

    Raises:
        DataError: The archive is broken, lacks a member, or a member is no regular file, has a name that leads out of
            the archive's folder, or is too big.
    """
    for name, member in members.items():
        path = PurePosixPath(member)
        if (
            path.is_absolute()
            or ".." in path.parts
            or PurePosixPath(name).name != name
            or name in ("", "..", ".")
        ):
            raise DataError(
                f"{archive}: the member {member!r} for {name!r} leads out of its folder; it is not unpacked"
            )
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                for name, member in members.items():
                    limit -= _from_zip(opened, archive, member, folder / name, limit)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                for name, member in members.items():
                    limit -= _from_tar(tar, archive, member, folder / name, limit)
        else:
            raise DataError(f"{archive} is neither a zip nor a tar archive; get it again")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, NotImplementedError) as error:
        raise DataError(f"{archive} can't be unpacked ({error}); get it again") from error


def _from_zip(opened: zipfile.ZipFile, archive: Path, member: str, target: Path, limit: int) -> int:
    if member not in opened.namelist():
        raise DataError(f"{archive} has no member {member!r}; it has {_some(opened.namelist())}")
    info = opened.getinfo(member)
    mode = info.external_attr >> 16
    if info.is_dir() or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)):
        raise DataError(f"{archive}: the member {member!r} is no regular file; it is not unpacked")
    with opened.open(info) as stream:
        return _write(stream, archive, member, info.file_size, target, limit)


def _from_tar(tar: tarfile.TarFile, archive: Path, member: str, target: Path, limit: int) -> int:
    if member not in tar.getnames():
        raise DataError(f"{archive} has no member {member!r}; it has {_some(tar.getnames())}")
    info = tar.getmember(member)
    stream = tar.extractfile(info) if info.isreg() else None
    if stream is None:
        raise DataError(f"{archive}: the member {member!r} is no regular file; it is not unpacked")
    with stream:
        return _write(stream, archive, member, info.size, target, limit)


def _write(stream: IO[bytes], archive: Path, member: str, size: int, target: Path, limit: int) -> int:
    """Copy one member; what it says of its size is not trusted."""
    aside = target.with_name(f"{target.name}.unpacking")
    written = 0
    try:
        with aside.open("wb") as file:
            while size <= limit and (block := stream.read(BLOCK)):
                written += len(block)
                if written > limit:
                    break
                file.write(block)
        if max(size, written) > limit:
            raise DataError(
                f"{archive}: the member {member!r} unpacks to more than {limit} bytes; it is not unpacked"
            )
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
    return written


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") if names else "none"
