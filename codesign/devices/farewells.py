"""Connections whose last words may not be lost: a client that is told why its session was ended.

Closing a connection on which the client still sends makes its system throw away what it has not read yet
(RFC 1122, 4.2.2.13). So the server only ends its own direction and reads on until the client closes.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time

_SECONDS = 60.0
_LIMIT = 16


class Farewells:
    """Connections that are read and never answered, for a minute at most."""

    def __init__(self) -> None:
        self._leaving: list[tuple[socket.socket, float]] = []

    def add(self, connection: socket.socket) -> None:
        """Send no more on a connection, and close it when the other side does."""
        try:
            connection.setblocking(False)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            connection.close()
            return
        self._leaving.append((connection, time.monotonic() + _SECONDS))
        while len(self._leaving) > _LIMIT:
            self._leaving.pop(0)[0].close()

    def register(self, poll: select.poll) -> None:
        for connection, _ in self._leaving:
            poll.register(connection, select.POLLIN)

    def go_on(self, ready: set[int]) -> None:
        """Throw away what came on those of the descriptors; close what is done or late."""
        now = time.monotonic()
        for connection, until in list(self._leaving):
            done = now > until
            if connection.fileno() in ready:
                try:
                    done |= not connection.recv(1 << 16)
                except BlockingIOError:
                    pass
                except OSError:
                    done = True
            if done:
                self._leaving.remove((connection, until))
                connection.close()

    def close(self) -> None:
        for connection, _ in self._leaving:
            with contextlib.suppress(OSError):
                connection.close()
        self._leaving.clear()
