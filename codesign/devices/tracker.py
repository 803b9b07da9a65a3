"""The tracker: servers offer themselves under a key, clients ask for one of that key.

Speaks TVM's protocol, so stock servers and clients use it too, and adds four messages: drain, resume and
forget a server, and a status that says who holds which device and how each is.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from codesign.devices import wire
from codesign.devices.connection import Connection
from codesign.devices.queues import Offer, Queue, Request
from codesign.devices.wire import Address, Code

_CONNECTIONS = 1024
_HISTORY = 256
_HEALTH_BYTES, _HOST_LIMIT = 16_384, 255
_KEYS = 1024

_NO_PORT = "no port was free to listen on; end it, start it with a wider --port-end"
"""Of TVM's C++ server, which says that its port is -1 then, and goes on."""

Pair = tuple[str, str]


@dataclass
class Server:
    """What is known of one server: its key and address, and what it told of itself."""

    key: str
    address: str
    connection: Connection | None = None
    since: float = field(default_factory=time.monotonic)
    seen: float = field(default_factory=time.monotonic)
    draining: bool = False
    health: dict[str, Any] | None = None
    holder: str | None = None
    held_since: float = 0.0

    def state(self, offered: bool) -> str:
        """``gone``, ``draining``, ``free``, ``busy`` or what the server itself says (``starting``)."""
        if self.connection is None:
            return "gone"
        if self.draining:
            return "draining"
        if offered:
            return "free"
        told = (self.health or {}).get("state")
        return told if told in ("busy", "starting", "ill") else "busy" if self.holder else "idle"


class Tracker:
    """State of a tracker, and what it answers. Use `serve_tracker` or `TrackerThread` to run one."""

    def __init__(self, log: Callable[[str], None] = lambda line: None) -> None:
        self.log = log
        self.stop_key = wire.new_match_key("tracker")
        self.stopped = asyncio.Event()
        self._started = time.time()
        self._connections: set[Connection] = set()
        self._queues: dict[str, Queue[Connection, Connection]] = {}
        self._servers: dict[Pair, Server] = {}

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for another peer."""
        if len(self._connections) >= _CONNECTIONS:
            return False
        self._connections.add(connection)
        return True

    def lost(self, connection: Connection) -> None:
        """A peer is gone: so are its offers and its requests."""
        self._connections.discard(connection)
        for queue in self._queues.values():
            queue.drop_server(connection)
            queue.drop_client(connection)
        if (server := connection.server) is not None and server.connection is connection:
            server.connection, server.holder, server.seen = None, None, time.monotonic()
            if (server.health or {}).get("error") == _NO_PORT:
                del self._servers[
                    server.key, server.address
                ]  # started again, it has another address
            self.log(f"gone: {server.key} at {server.address}")

    def handle(self, connection: Connection, message: Any) -> None:
        """Answer one message; one that is out of shape raises and closes its connection."""
        code = message[0]
        if connection.server is not None:
            connection.server.seen = time.monotonic()
        if code == Code.PUT:
            self._put(connection, *message[1:])
        elif code == Code.REQUEST:
            self._request(connection, str(message[1]), int(message[3]))
        elif code == Code.PING:
            connection.send(Code.SUCCESS)
        elif code == Code.GET_PENDING_MATCHKEYS:
            connection.send(sorted(connection.match_keys))
        elif code == Code.UPDATE_INFO:
            self._update(connection, message[1])
        elif code == Code.SUMMARY:
            connection.send([Code.SUCCESS, self.summary()])
        elif code == Code.STOP:
            right = hmac.compare_digest(str(message[1]).encode(), self.stop_key.encode())
            connection.send(Code.SUCCESS if right else Code.FAIL)
            if right:
                self.stopped.set()
        elif code == Code.STATUS:
            connection.send([Code.SUCCESS, self.status()])
        elif code in (Code.DRAIN, Code.RESUME, Code.FORGET):
            connection.send([Code.SUCCESS, self._command(Code(code), message[1])])
        else:
            raise wire.WireError(f"no such code: {code}")

    def _queue(self, key: str) -> Queue[Connection, Connection]:
        if key not in self._queues:
            if len(self._queues) >= _KEYS:
                self._queues = {k: q for k, q in self._queues.items() if q.offers or q.waiting()}
            if len(self._queues) >= _KEYS:
                raise wire.WireError("too many keys")
            _check_key(key)
            self._queues[key] = Queue(self._grant, self._willing)
        return self._queues[key]

    def _put(
        self, connection: Connection, key: str, offer: list[Any], host: str | None = None
    ) -> None:
        at, match_key = _address(host, offer[0], connection), str(offer[1])
        if len(match_key) > wire.KEY_LIMIT:
            raise wire.WireError("a match key that is too long")
        queue = self._queue(str(key))
        server = self._server(connection, str(key), at)
        if at.port == 0:
            server.health = {"state": "ill", "error": _NO_PORT}
            connection.send(Code.SUCCESS)  # turned away, it would come again at once, and again
            return
        server.holder = None
        queue.drop_server(connection)  # an offer takes the place of the one before
        connection.match_keys = {match_key}
        connection.send(Code.SUCCESS)
        queue.put(Offer(connection, at.host, at.port, match_key))

    def _server(self, connection: Connection, key: str, at: Address) -> Server:
        _check_key(key)
        address = str(at)
        server = self._servers.get((key, address))
        if server is None:
            self._make_room()
            server = self._servers[key, address] = Server(key, address)
        if server.connection is not connection:
            self.log(f"here: {key} at {address}")
            if server.connection is not None:
                server.connection.server = None
                server.connection.close()  # it came back before its old connection was found dead
            server.connection, server.since = connection, time.monotonic()
            connection.end_with_reset()
        if connection.server not in (None, server):
            assert connection.server is not None
            self._servers.pop((connection.server.key, connection.server.address), None)
        connection.server, server.seen = server, time.monotonic()
        return server

    def _make_room(self) -> None:
        gone = sorted((s for s in self._servers.values() if s.connection is None), key=_seen)
        for server in gone[: max(0, len(self._servers) - _HISTORY + 1)]:
            del self._servers[server.key, server.address]

    def _request(self, connection: Connection, key: str, priority: int) -> None:
        self._queue(key).request(Request(connection, priority, time.monotonic()))

    def _grant(self, request: Request[Connection], offer: Offer[Connection]) -> None:
        offer.server.match_keys.discard(offer.match_key)
        if offer.server.server is not None:
            offer.server.server.holder = request.client.peer
            offer.server.server.held_since = time.monotonic()
        request.client.send([Code.SUCCESS, [offer.host, offer.port, offer.match_key]])

    def _willing(self, offer: Offer[Connection]) -> bool:
        server = offer.server.server
        return offer.server.is_open() and not (server is not None and server.draining)

    def _update(self, connection: Connection, info: dict[str, Any]) -> None:
        host, port = info["addr"]
        key = str(info["key"]).removeprefix("server:")
        health = info.get("codesign")
        if health is not None and len(wire.frame(health)) > _HEALTH_BYTES:
            raise wire.WireError("a health that is too long")
        server = self._server(connection, key, _address(host, port, connection))
        server.health = health if isinstance(health, dict) else None
        connection.send(Code.SUCCESS)

    def _command(self, code: Code, which: dict[str, Any]) -> int:
        """Drain, resume or forget the servers of a key and an address (None: any); says how many."""
        key, address = which.get("key"), which.get("address")
        if key is None and address is None:
            raise wire.WireError("a key or an address is needed")
        chosen = [
            s
            for s in self._servers.values()
            if (key is None or s.key == key) and (address is None or s.address == address)
        ]
        for server in chosen:
            self.log(f"{code.name.lower()}: {server.key} at {server.address}")
            if code == Code.FORGET:
                del self._servers[server.key, server.address]
                if server.connection is not None:
                    server.connection.server = None
                    server.connection.close()
            else:
                server.draining = code == Code.DRAIN
        for queue in self._queues.values():
            queue.match()
        return len(chosen)

    def summary(self) -> dict[str, Any]:
        """What TVM's tracker answers to SUMMARY."""
        alive = [s for s in self._servers.values() if s.connection is not None]
        return {
            "queue_info": {
                key: {"free": queue.free(), "pending": len(queue.waiting())}
                for key, queue in self._queues.items()
            },
            "server_info": [
                {"key": f"server:{s.key}", "addr": _pair(s.address)}
                | ({"codesign": s.health} if s.health else {})
                for s in alive
            ],
        }

    def status(self) -> dict[str, Any]:
        """The answer to STATUS: all of `summary`, and who waits, who holds what, and how they are."""
        now = time.monotonic()
        offered = {o.server for q in self._queues.values() for o in q.offers}
        return {
            "version": 1,
            "pid": os.getpid(),
            "started": self._started,
            "queues": {
                key: {
                    "free": queue.free(),
                    "pending": len(waiting := queue.waiting()),
                    "waiting": [
                        {"peer": r.client.peer, "priority": r.priority, "seconds": now - r.since}
                        for r in waiting
                    ],
                }
                for key, queue in self._queues.items()
            },
            "servers": [
                {
                    "key": s.key,
                    "address": s.address,
                    "state": s.state(s.connection in offered),
                    "draining": s.draining,
                    "last_seen_s": now - s.seen,
                    "connected_s": None if s.connection is None else now - s.since,
                    "holder": {"peer": s.holder, "seconds": now - s.held_since}
                    if s.holder
                    else None,
                    "health": s.health,
                }
                for s in self._servers.values()
            ],
        }

    def close(self) -> None:
        for connection in list(self._connections):
            connection.close()


def _check_key(key: str) -> None:
    if not 0 < len(key) <= wire.KEY_LIMIT // 2:
        raise wire.WireError("a key that is empty or too long")


def _address(host: Any, port: Any, connection: Connection) -> Address:
    """Where a server says that it listens; without a host, where it speaks from.

    A name that could not be read back from `Address`'s text would spoil the answers to all others.
    """
    at = Address(str(host) if host else connection.peer, max(int(port), 0))
    if len(at.host) > _HOST_LIMIT or wire.parse_address(str(at)) != at:
        raise wire.WireError(f"no address: {str(at)[:80]}")
    return at


def _seen(server: Server) -> float:
    return server.seen


def _pair(address: str) -> list[Any]:
    parsed = wire.parse_address(address)
    return [parsed.host, parsed.port]


async def serve_tracker(
    listening: socket.socket,
    log: Callable[[str], None] = lambda line: None,
    started: Callable[[Tracker], None] = lambda tracker: None,
) -> None:
    """Serve a bound socket until the tracker is stopped or this is cancelled."""
    tracker = Tracker(log)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(tracker), sock=listening)
    started(tracker)
    try:
        await tracker.stopped.wait()
        await asyncio.sleep(0.05)  # the answer to STOP leaves first
    finally:
        server.close()
        tracker.close()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one.

    Raises:
        OSError: the address is in use or not of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(64)
    except OSError:
        listening.close()
        raise
    return listening


class TrackerThread:
    """A tracker in a thread of this process, for a sweep that needs no separate one, and for tests."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        listening = bind(host, port)
        self.address = Address(*listening.getsockname()[:2])
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listening,), daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def _run(self, listening: socket.socket) -> None:
        def started(tracker: Tracker) -> None:
            self._tracker, self._loop = tracker, asyncio.get_running_loop()
            self._ready.set()

        asyncio.run(serve_tracker(listening, started=started))

    def close(self) -> None:
        """Stop it; all connections end."""
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._tracker.stopped.set)
        self._thread.join(10)

    def __enter__(self) -> TrackerThread:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
