"""One peer of the tracker: its bytes as messages, its silence bounded."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Any

from codesign.devices import wire

if TYPE_CHECKING:
    from codesign.devices.tracker import Server, Tracker

_HELLO_SECONDS = 5.0
_MESSAGE_SECONDS = 20.0
_UNSENT_LIMIT = 4 << 20


class Connection(asyncio.Protocol):
    """One peer, a server or a client: which of the two shows in what it asks."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.server: Server | None = None
        self.match_keys: set[str] = set()
        self.peer = ""
        self._buffer = bytearray()
        self._greeted = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.peer = str(transport.get_extra_info("peername")[0])
        with contextlib.suppress(OSError):
            wire.keep_alive(transport.get_extra_info("socket"))
        if not self.tracker.admit(self):
            transport.abort()
            return
        self._expect(_HELLO_SECONDS)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            self._read()
        except Exception:  # nothing of this protocol: there is no answer that it would understand
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._expect(None)
        self.tracker.lost(self)

    def send(self, value: Any) -> None:
        self._transport.write(wire.frame(value))
        if self._transport.get_write_buffer_size() > _UNSENT_LIMIT:
            self.close()  # asks, but does not read the answers

    def close(self) -> None:
        self._transport.abort()

    def end_with_reset(self) -> None:
        """However this connection ends here, this process killed too, the peer hears of it at its next write.

        TVM's C++ server writes each message in two parts: the second one to a connection that has merely been
        closed raises SIGPIPE, which ends it. A reset is an error of the first part, and it connects again.
        """
        with contextlib.suppress(OSError):
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )

    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def _read(self) -> None:
        if not self._greeted:
            if len(self._buffer) < 4:
                return
            if struct.unpack_from("<i", self._buffer)[0] != wire.TRACKER_MAGIC:
                raise wire.WireError("not the tracker's protocol")
            del self._buffer[:4]
            self._greeted = True
            self._transport.write(wire.magic(wire.TRACKER_MAGIC))
        while self.is_open() and (message := wire.take_frame(self._buffer)) is not None:
            self.tracker.handle(self, message[0])
        self._expect(_MESSAGE_SECONDS if self._buffer else None)  # half a message must be finished

    def _expect(self, seconds: float | None) -> None:
        """Close the connection unless more comes within so many seconds; None: it may be silent."""
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = None if seconds is None else loop.call_later(seconds, self.close)
