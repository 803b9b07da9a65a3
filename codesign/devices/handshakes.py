"""Peers that have connected and not yet said who they are: read piece by piece, dropped when silent."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from codesign.devices import wire

_SECONDS = 5.0
_LIMIT = 32


@dataclass
class Handshake:
    """A peer, and what it has sent so far."""

    connection: socket.socket
    peer: str
    until: float
    data: bytearray = field(default_factory=bytearray)


class Handshakes:
    """All peers that are being read.

    Args:
        admit: called with a peer, its match key and its time-out (None: it named none) once they are read; a
            WireError that it raises turns the peer away.
        log: told why a peer was turned away.
    """

    def __init__(
        self,
        admit: Callable[[Handshake, str, float | None], None],
        log: Callable[[str], None],
    ) -> None:
        self._admit, self._log = admit, log
        self._peers: list[Handshake] = []

    def has_room(self) -> bool:
        return len(self._peers) < _LIMIT

    def register(self, poll: select.poll) -> None:
        for peer in self._peers:
            poll.register(peer.connection, select.POLLIN)

    def due(self) -> float:
        """Monotonic time at which the first peer has been silent for too long."""
        return min((p.until for p in self._peers), default=float("inf"))

    def accept(self, listening: socket.socket) -> None:
        """Take in the next peer."""
        connection, address = listening.accept()
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            wire.keep_alive(connection)
        self._peers.append(Handshake(connection, str(address[0]), time.monotonic() + _SECONDS))

    def go_on(self, ready: set[int]) -> None:
        """Read from those of the descriptors; drop whom there is no sense in waiting for."""
        for peer in list(self._peers):
            try:
                if self._read(peer, peer.connection.fileno() in ready):
                    self._peers.remove(peer)
            except (OSError, wire.WireError) as error:
                self._log(f"{peer.peer}: turned away: {error}")
                self._peers.remove(peer)
                peer.connection.close()

    def close(self) -> None:
        for peer in self._peers:
            peer.connection.close()
        self._peers.clear()

    def _read(self, peer: Handshake, ready: bool) -> bool:
        """Whether all was read and the peer admitted."""
        if ready:
            data = peer.connection.recv(wire.KEY_LIMIT)
            if not data:
                raise wire.WireError("it closed the connection")
            peer.data += data
            if (text := wire.take_handshake(peer.data)) is not None:
                self._admit(peer, *wire.parse_key(text))
                return True
        if time.monotonic() > peer.until:
            raise wire.WireError(f"it said nothing for {_SECONDS:g} s")
        return False
