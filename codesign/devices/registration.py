"""A server's connection to the tracker, without ever blocking: offers, health, coming back after a loss."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from codesign.devices import wire
from codesign.devices.wire import Address, Code

_RETRY_SECONDS, _UNRESOLVED_SECONDS = 1.0, 10.0  # asking for a name's address blocks
_ANSWER_SECONDS = 10.0
_POLL_SECONDS = 2.0
_HEALTH_SECONDS, _BUSY_HEALTH_SECONDS = 5.0, 15.0  # reading it costs the device's time
_UNUSED_SECONDS = 6.0  # a client that was given the offer connects at once


class Registration:
    """Keeps one server known to one tracker.

    Call `handle` when its socket is ready for `events`, and `tick` at least every second.

    Args:
        tracker: where it is.
        key: under which key the server is offered.
        port: of the server.
        host: what clients shall connect to; None: the address that the tracker sees.
        health: what is told of the server, a JSON object.
    """

    def __init__(
        self,
        tracker: Address,
        key: str,
        port: int,
        host: str | None,
        health: Callable[[], dict[str, Any]],
    ) -> None:
        self.match_key: str | None = None
        self.registered = False
        self.error: str | None = None
        self._tracker, self._key, self._port, self._host = tracker, key, port, host
        self._health = health
        self._offering = False
        self._socket: socket.socket | None = None
        self._connected = self._greeted = False
        self._outgoing, self._incoming = bytearray(), bytearray()
        self._answers: deque[Callable[[Any], None]] = deque()
        self._answer_until = float("inf")
        self._next_try = self._next_poll = self._next_health = 0.0
        self._unused_since: float | None = None

    def offer(self) -> None:
        """Take one client, under a new match key, as soon as the tracker is there."""
        self._offering = True
        self.match_key = wire.new_match_key(self._key)
        if self._greeted:
            self._put()

    def taken(self) -> None:
        """A client is here: no other may come until `offer` is called."""
        self._offering = False
        self.match_key = None
        self.tell()

    def tell(self) -> None:
        """Send the server's health now."""
        if self._greeted:
            address = [self._host, self._port]
            info = {"key": f"server:{self._key}", "addr": address, "codesign": self._health()}
            self._ask([Code.UPDATE_INFO, info], lambda answer: None)
            pause = _HEALTH_SECONDS if self._offering else _BUSY_HEALTH_SECONDS
            self._next_health = time.monotonic() + pause

    def fileno(self) -> int | None:
        """Descriptor to wait for; None while there is no connection."""
        return None if self._socket is None else self._socket.fileno()

    def events(self) -> int:
        """What to wait for, as in `select.poll`."""
        write = not self._connected or bool(self._outgoing)
        return select.POLLIN | (select.POLLOUT if write else 0)

    def handle(self) -> None:
        """Go on with what the socket is ready for; a failure drops the connection until the next try."""
        if self._socket is None:
            return
        try:
            if not self._connected:
                code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, errno.errorcode.get(code, "error"))
                self._connected = True
            self._send()
            self._receive()
        except (OSError, wire.WireError, ValueError, TypeError) as error:
            self._drop(str(error))

    def tick(self) -> None:
        """Do what is due: connect, ask whether the offer is still there, tell the health."""
        now = time.monotonic()
        if self._socket is None:
            if now >= self._next_try:
                self._connect()
        elif now > self._answer_until:
            self._drop("the tracker does not answer")
        elif self._greeted:
            if self._offering and now >= self._next_poll:
                self._next_poll = now + _POLL_SECONDS
                self._ask([Code.GET_PENDING_MATCHKEYS], self._pending)
            if now >= self._next_health:
                self.tell()

    def close(self) -> None:
        self._drop("closed")

    def _connect(self) -> None:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                self._tracker.host, self._tracker.port, type=socket.SOCK_STREAM
            )[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setblocking(False)
            wire.keep_alive(self._socket)
            self._answer_until = time.monotonic() + _ANSWER_SECONDS
            code = self._socket.connect_ex(address)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, errno.errorcode.get(code, "error"))
            self._outgoing += wire.magic(wire.TRACKER_MAGIC)
        except OSError as error:
            self._drop(str(error))
            if isinstance(error, socket.gaierror):
                self._next_try = time.monotonic() + _UNRESOLVED_SECONDS

    def _drop(self, error: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
        self._socket = None
        self.error = error
        self.registered = self._connected = self._greeted = False
        self._outgoing, self._incoming = bytearray(), bytearray()
        self._answers.clear()
        self._answer_until = float("inf")
        self._next_poll = self._next_health = 0.0
        self._unused_since = None
        self._next_try = time.monotonic() + _RETRY_SECONDS

    def _ask(self, message: list[Any], then: Callable[[Any], None]) -> None:
        self._outgoing += wire.frame(message)
        self._answers.append(then)
        if self._answer_until == float("inf"):
            self._answer_until = time.monotonic() + _ANSWER_SECONDS

    def _send(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            while self._outgoing:
                del self._outgoing[: self._socket.send(self._outgoing)]

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        if not data:
            raise wire.WireError("the tracker closed the connection")
        self._incoming += data
        if not self._greeted:
            if len(self._incoming) < 4:
                return
            if struct.unpack_from("<i", self._incoming)[0] != wire.TRACKER_MAGIC:
                raise wire.WireError(f"{self._tracker} is no tracker")
            del self._incoming[:4]
            self._hello()
        while (message := wire.take_frame(self._incoming)) is not None:
            if not self._answers:
                raise wire.WireError("an answer that nothing asked for")
            self._answer_until = (
                time.monotonic() + _ANSWER_SECONDS if len(self._answers) > 1 else float("inf")
            )
            self._answers.popleft()(message[0])

    def _hello(self) -> None:
        self._greeted = True
        self.error = None
        self._answer_until = float("inf")
        self.tell()
        if self._offering:
            self._put()

    def _put(self) -> None:
        def answer(value: Any) -> None:
            if value != Code.SUCCESS:
                raise wire.WireError("the tracker refused the offer")
            self.registered = True

        self._unused_since = None
        self._next_poll = time.monotonic() + _POLL_SECONDS
        self._ask([Code.PUT, self._key, [self._port, self.match_key], self._host], answer)

    def _pending(self, keys: Any) -> None:
        """Make a new offer if the last was handed to a client that never came."""
        if not self._offering or self.match_key in keys:
            self._unused_since = None
            return
        now = time.monotonic()
        self._unused_since = self._unused_since or now
        if now - self._unused_since > _UNUSED_SECONDS:
            self.offer()
