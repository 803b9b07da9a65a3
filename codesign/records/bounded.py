"""Lines of a text file from anybody, gzipped or not, without taking more memory than allowed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from codesign.errors import UserError

LINE_BYTES = 8 << 20
"""Longest line."""

TOTAL_BYTES = 4 << 30
"""Most bytes after decompression: a gzip file of 4 MB can hold as much."""

_GZIP = b"\x1f\x8b"


class TooMuchError(UserError):
    """A file that holds more than may be read."""


class CutShortError(UserError):
    """A compressed file that is damaged or ends early."""


def lines(
    path: Path, most_line: int = LINE_BYTES, most_total: int = TOTAL_BYTES
) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and content of each line, without its end.

    Raises:
        UserError: no such file, not a plain file, or unreadable; TooMuchError, CutShortError: see there.
    """
    if not path.is_file():
        raise UserError(
            "there is no such file of records", got=str(path), allowed="a plain file",
            next="codesign records export RUN FILE writes one",
        )  # fmt: skip
    total = 0
    try:
        with _opened(path) as stream:
            number = 0
            while line := stream.readline(most_line + 1):
                number, total = number + 1, total + len(line)
                if len(line) > most_line:
                    raise _too_much(path, f"line {number} is longer than {most_line} bytes")
                if total > most_total:
                    raise _too_much(path, f"more than {most_total} bytes")
                yield number, line.rstrip(b"\r\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CutShortError(
            "the file of records is damaged", got=f"{path}: {error}", allowed="a whole gzip file",
            next="copy or export it again",
        ) from error  # fmt: skip
    except OSError as error:
        raise UserError(
            "cannot read the file of records", got=f"{path}: {error.strerror or error}",
            allowed="a readable file",
        ) from error  # fmt: skip


def _opened(path: Path) -> IO[bytes]:
    with open(path, "rb") as stream:
        packed = stream.read(2) == _GZIP
    return cast(IO[bytes], gzip.open(path, "rb") if packed else open(path, "rb"))


def _too_much(path: Path, got: str) -> TooMuchError:
    return TooMuchError(
        "the file of records is too large", got=f"{path}: {got}",
        allowed=f"lines of {LINE_BYTES >> 20} MiB, {TOTAL_BYTES >> 30} GiB in all",
        next="export parts of it with --target or --device",
    )  # fmt: skip
