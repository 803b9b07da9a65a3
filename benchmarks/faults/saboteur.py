"""A device that misbehaves: it takes clients from a tracker and passes their bytes on to a real one, or not."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from codesign.devices import wire
from codesign.devices.client import TrackerClient
from codesign.devices.wire import Address, Code
from codesign.errors import UserError

_STEP = 0.1
_OFFER_SECONDS = 3.0


@dataclass
class Behaviour:
    """What happens to the bytes of a session.

    Attributes:
        silent: nothing is passed on, the client waits.
        garbage: the client gets random bytes for an answer.
        cut_after: the connection is cut when the client has sent so many bytes; None: never.
    """

    silent: bool = False
    garbage: bool = False
    cut_after: int | None = None


class Saboteur:
    """Registers under ``key`` and relays each client to a server of the key ``real``.

    Args:
        behaviour: asked at the begin of every session.
    """

    def __init__(
        self, tracker: Address, key: str, real: str, behaviour: Callable[[int], Behaviour]
    ) -> None:
        self.sessions = 0
        self._tracker, self._key, self._real, self._behaviour = tracker, key, real, behaviour
        self._end = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Saboteur:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join(10)
        self._listening.close()

    def _serve(self) -> None:
        port = self._listening.getsockname()[1]
        with socket.create_connection((self._tracker.host, self._tracker.port), 5) as tracker:
            tracker.sendall(wire.magic(wire.TRACKER_MAGIC))
            wire.read_exactly(tracker, 4, time.monotonic() + 5)
            info = {"key": f"server:{self._key}", "addr": ["127.0.0.1", port]}
            self._ask(tracker, [Code.UPDATE_INFO, info])
            while not self._end.is_set():
                match_key = wire.new_match_key(self._key)
                self._ask(tracker, [Code.PUT, self._key, [port, match_key], None])
                offered = time.monotonic()
                while not select.select([self._listening], [], [], _STEP)[0]:
                    if self._end.is_set():
                        return
                    if time.monotonic() - offered > _OFFER_SECONDS:
                        offered = time.monotonic()
                        if match_key not in self._ask(tracker, [Code.GET_PENDING_MATCHKEYS]):
                            break  # taken, and not used
                else:
                    self._accept()
                    continue

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        with client, contextlib.suppress(OSError, wire.WireError, TimeoutError, UserError):
            self.sessions += 1
            self._session(client, self._behaviour(self.sessions))

    def _session(self, client: socket.socket, how: Behaviour) -> None:
        until = time.monotonic() + 5
        head = wire.read_exactly(client, 8, until)
        wire.read_exactly(client, struct.unpack("<ii", head)[1], until)
        if how.silent or how.garbage:
            client.sendall(wire.welcome(self._key))
            if how.garbage:
                client.sendall(os.urandom(4096))
            while not self._end.is_set():
                if select.select([client], [], [], _STEP)[0] and not client.recv(1 << 16):
                    return
            return
        with self._connect() as server:
            client.sendall(wire.welcome(self._key))
            self._relay(client, server, how.cut_after)

    def _connect(self) -> socket.socket:
        with TrackerClient(self._tracker) as asked:
            address, match_key = asked.request(self._real, 20)
        server = socket.create_connection((address.host, address.port), 5)
        key = f"client:{match_key} -timeout=600".encode()
        server.sendall(wire.magic(wire.RPC_MAGIC) + struct.pack("<i", len(key)) + key)
        head = wire.read_exactly(server, 8, time.monotonic() + 5)
        wire.read_exactly(server, struct.unpack("<ii", head)[1], time.monotonic() + 5)
        return server

    def _relay(self, client: socket.socket, server: socket.socket, limit: int | None) -> None:
        sent = 0
        while not self._end.is_set():
            ready, _, _ = select.select([client, server], [], [], _STEP)
            for side, other in ((client, server), (server, client)):
                if side not in ready:
                    continue
                data = side.recv(1 << 14)
                if not data:
                    return
                other.sendall(data)
                sent += len(data) if side is client else 0
                if limit is not None and sent > limit:
                    return

    @staticmethod
    def _ask(tracker: socket.socket, message: list[object]) -> Any:
        tracker.settimeout(5)
        tracker.sendall(wire.frame(message))
        return wire.read_frame(tracker, time.monotonic() + 5)
