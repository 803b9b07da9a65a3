"""Which files a session may name, and the cache of files that sessions share.

This guards against mistakes and against clients that only move files. Whoever may load a module runs code
on the device and is stopped by none of it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 20
_MB = 1e6


class RefusedError(Exception):
    """A file that a session may not have; the text goes to the client."""


@dataclass(frozen=True)
class WorkFolder:
    """The folder of one session.

    Attributes:
        path: where it is.
        limit: most bytes that one file may have.
    """

    path: Path
    limit: int

    def resolve(self, name: str) -> Path:
        """The path of a file of the session.

        Raises:
            RefusedError: the name is empty, absolute, holds ``..`` or NUL, or leads outside by a link.
        """
        if not name or "\0" in name or os.path.isabs(name) or ".." in Path(name).parts:
            raise RefusedError(
                f"refused: {name!r} is no path inside the session's work folder"
                " (relative, without '..' and NUL)"
            )
        base = os.path.realpath(self.path)
        path = os.path.realpath(os.path.join(base, name))
        if path != base and not path.startswith(base + os.sep):
            raise RefusedError(
                f"refused: {name!r} leads out of the session's work folder by a link"
            )
        return Path(path)

    def file(self, name: str) -> Path:
        """The same for a file: the folder itself is refused too."""
        path = self.resolve(name)
        if path == Path(os.path.realpath(self.path)):
            raise RefusedError(f"refused: {name!r} is the session's work folder, no file in it")
        return path

    def save(self, name: str, data: bytes) -> None:
        """Write a file as a whole or not at all.

        Raises:
            RefusedError: a bad name, too long, or no room on the disk.
        """
        path = self.file(name)
        if len(data) > self.limit:
            raise RefusedError(
                f"refused: {name!r} has {len(data) / _MB:.1f} MB; this server takes at most"
                f" {self.limit / _MB:.1f} MB (--max-upload-mb)"
            )
        part = path.with_name(f".{secrets.token_hex(4)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(data)
            os.replace(part, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            raise RefusedError(_no_room(name, len(data), error)) from None


@dataclass(frozen=True)
class Cache:
    """Files of the whole server under their SHA-256, the least recently used removed first.

    Attributes:
        path: its folder.
        limit: most bytes of all files together.
    """

    path: Path
    limit: int

    def has(self, digest: str) -> bool:
        """Whether a file is there; that counts as a use."""
        try:
            os.utime(self._file(digest))
        except OSError:
            return False
        return True

    def keep(self, source: Path, digest: str) -> None:
        """Take a copy of a file whose contents have this digest.

        Raises:
            RefusedError: they have not, it does not fit, or the disk is full.
        """
        target = self._file(digest)
        try:
            size = source.stat().st_size
        except OSError as error:
            raise RefusedError(f"refused: {source.name!r}: {error.strerror}") from None
        if size > self.limit:
            raise RefusedError(
                f"refused: {source.name!r} has {size / _MB:.1f} MB, the cache"
                f" {self.limit / _MB:.1f} MB (--cache-mb)"
            )
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._shrink(self.limit - size, keep=target)
        part = self.path / f".{secrets.token_hex(8)}.part"
        try:
            found = _copy(source, part)
            if found != digest:
                raise RefusedError(
                    f"refused: {source.name!r} has the SHA-256 {found}, not {digest}: upload it again"
                )
            os.replace(part, target)
        except OSError as error:
            raise RefusedError(_no_room(source.name, size, error)) from None
        finally:
            with contextlib.suppress(OSError):
                part.unlink()

    def take(self, digest: str, target: Path) -> bool:
        """Put a copy of a file there; False if it is not in the cache (any more).

        The contents are hashed again: a file damaged on the disk is removed and counts as absent.
        """
        source = self._file(digest)
        part = target.with_name(f".{secrets.token_hex(4)}.part")
        try:
            if not source.exists():
                return False
            target.parent.mkdir(parents=True, exist_ok=True)
            if _copy(source, part) != digest:
                source.unlink()
                return False
            os.utime(source)
            os.replace(part, target)
        except OSError as error:
            raise RefusedError(_no_room(target.name, _size(source), error)) from None
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
        return True

    def clean(self) -> None:
        """Remove what a killed server left half-written, and what is over the limit."""
        for part in self.path.glob(".*.part"):
            with contextlib.suppress(OSError):
                part.unlink()
        self._shrink(self.limit)

    def _file(self, digest: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise RefusedError(f"refused: {digest[:80]!r} is no SHA-256 in lower-case hexadecimal")
        return self.path / digest

    def _shrink(self, limit: int, keep: Path | None = None) -> None:
        files = []
        for file in self.path.glob("[0-9a-f]" * 64):
            with contextlib.suppress(OSError):
                found = file.stat()
                files.append((found.st_mtime_ns, found.st_size, file))
        total = sum(size for _, size, file in files if file != keep)
        for _, size, file in sorted(files):
            if total <= limit:
                return
            if file != keep:
                with contextlib.suppress(OSError):
                    file.unlink()
                total -= size


def _copy(source: Path, target: Path) -> str:
    """Copy a file and return the digest of what was written."""
    digest = hashlib.sha256()
    with open(source, "rb") as read, open(target, "wb") as write:
        while chunk := read.read(_CHUNK):
            digest.update(chunk)
            write.write(chunk)
    return digest.hexdigest()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _no_room(name: str, size: int, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no room: {name!r} ({size / _MB:.1f} MB): the device's disk is full"
    if error.errno == errno.EFBIG:
        return f"no room: {name!r} ({size / _MB:.1f} MB) is longer than a session's files may be"
    return f"{name!r} could not be written: {error.strerror or error}"
