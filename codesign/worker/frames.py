"""The wire between a worker and its parent: a JSON header and raw blobs, each with its length."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MAGIC = b"CdW1"
_PREFIX = struct.Struct("<4sI")
_MAX_HEADER = 1 << 26
_MAX_BLOB = 1 << 34


class FrameError(Exception):
    """The bytes on the pipe are not a frame."""


@dataclass(frozen=True)
class Frame:
    """One message: JSON object ``header`` and binary ``blobs``."""

    header: dict[str, Any]
    blobs: tuple[bytes, ...] = ()


def encode(header: Mapping[str, Any], blobs: Sequence[bytes | memoryview] = ()) -> list[memoryview]:
    """The pieces to write, in order; blobs are not copied."""
    views = [memoryview(b).cast("B") for b in blobs]
    text = json.dumps({"header": header, "blobs": [len(v) for v in views]}).encode()
    return [memoryview(_PREFIX.pack(_MAGIC, len(text)) + text), *views]


class Decoder:
    """Collects bytes as they arrive until one frame is whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._sizes: list[int] | None = None
        self._header: dict[str, Any] = {}
        self._start = 0

    def needed(self) -> int:
        """Bytes still missing, as far as known; 0 once a frame is whole. Raises FrameError."""
        if self._sizes is None and not self._read_header():
            return max(1, self._start - len(self._buffer))
        assert self._sizes is not None
        return max(0, self._start + sum(self._sizes) - len(self._buffer))

    def feed(self, data: bytes) -> Frame | None:
        """Add bytes; the frame if it is whole now. Raises FrameError for anything else."""
        self._buffer += data
        return None if self.needed() else self._take()

    def _read_header(self) -> bool:
        if len(self._buffer) < _PREFIX.size:
            if not _MAGIC.startswith(bytes(self._buffer[:4])):
                raise FrameError(f"not a frame: {bytes(self._buffer[:40])!r}")
            self._start = _PREFIX.size
            return False
        magic, size = _PREFIX.unpack_from(self._buffer)
        if magic != _MAGIC or size > _MAX_HEADER:
            raise FrameError(f"not a frame: {bytes(self._buffer[:40])!r}")
        self._start = _PREFIX.size + size
        if len(self._buffer) < self._start:
            return False
        try:
            envelope = json.loads(self._buffer[_PREFIX.size : self._start])
            sizes = [int(n) for n in envelope["blobs"]]
            self._header = dict(envelope["header"])
        except (ValueError, KeyError, TypeError) as error:
            raise FrameError(f"broken header: {error}") from None
        if any(n < 0 or n > _MAX_BLOB for n in sizes):
            raise FrameError(f"impossible blob sizes {sizes[:5]}")
        self._sizes = sizes
        return True

    def _take(self) -> Frame:
        assert self._sizes is not None
        blobs, at = [], self._start
        for size in self._sizes:
            blobs.append(bytes(memoryview(self._buffer)[at : at + size]))
            at += size
        frame = Frame(self._header, tuple(blobs))
        self._buffer = self._buffer[at:]
        self._sizes, self._header, self._start = None, {}, 0
        return frame
