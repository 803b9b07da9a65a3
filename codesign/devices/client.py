"""Asks a tracker: what is there, who holds it; drains, resumes and forgets. TVM is not needed.

TVM's own tracker is understood too. It knows less, and then what it does not tell is None.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from codesign.devices import wire
from codesign.devices.wire import Address, Code
from codesign.errors import UserError

_SECONDS = 5.0
_STEP_SECONDS = 0.5


class TrackerClient:
    """A connection to a tracker; every answer comes within ``seconds`` or is an error.

    Args:
        address: where the tracker is.
        seconds: deadline of connecting and of each answer.

    Raises:
        UserError: nothing listens there, or it is no tracker.
    """

    def __init__(self, address: Address, seconds: float = _SECONDS) -> None:
        self.address = address
        self.seconds = seconds
        self.stock = False
        self._connect()

    def status(self) -> dict[str, Any]:
        """Queues and servers, in the form of our tracker's STATUS, plus ``stock``: it is TVM's own.

        Raises:
            UserError: the tracker went away or does not answer.
        """
        if not self.stock:
            try:
                return self._ask([Code.STATUS])[1] | {"stock": False}
            except (wire.WireError, ConnectionError):
                self.stock = True  # TVM's tracker hangs up on a code that it does not know
                self._connect()
        return _from_summary(self._asked([Code.SUMMARY])[1])

    def drain(self, key: str | None, address: str | None) -> int:
        """Hand out no more of these servers; a running session goes on. Says how many they are.

        Args:
            key: of which key; None: of any.
            address: ``HOST:PORT`` of one server; None: of any.

        Raises:
            UserError: TVM's tracker cannot do that.
        """
        return self._command(Code.DRAIN, key, address)

    def resume(self, key: str | None, address: str | None) -> int:
        """Undo `drain`."""
        return self._command(Code.RESUME, key, address)

    def forget(self, key: str | None, address: str | None) -> int:
        """Close their connections and strike them off; a living one is back within seconds."""
        return self._command(Code.FORGET, key, address)

    def request(
        self, key: str, seconds: float, goes_on: Callable[[], bool] = lambda: True
    ) -> tuple[Address, str]:
        """Wait for a server of a key: where it is, and the match key under which it expects us.

        Args:
            seconds: to wait, at most.
            goes_on: asked every half second whether to wait on.

        Raises:
            TimeoutError: none got free in time, or ``goes_on`` said no.
            UserError: the tracker went away, or answers otherwise than a tracker.
        """
        until = time.monotonic() + seconds
        try:
            self._socket.settimeout(self.seconds)
            self._socket.sendall(wire.frame([Code.REQUEST, key, "", 1]))
            while not select.select([self._socket], [], [], _STEP_SECONDS)[0]:
                if time.monotonic() > until or not goes_on():
                    raise TimeoutError(f"no server of '{key}' got free in {seconds:.0f} s")
            code, grant = wire.read_frame(self._socket, time.monotonic() + self.seconds)
            host, port, match_key = grant
            if code != Code.SUCCESS:
                raise wire.WireError(f"the tracker answered {code}")
            return Address(str(host), int(port)), str(match_key)
        except TimeoutError:
            raise
        except (OSError, wire.WireError, TypeError, ValueError) as error:
            raise unreachable(self.address, error) from None

    def tells_nothing(self, address: Address) -> bool:
        """Whether the server at an address is TVM's own, which tells the tracker nothing of itself.

        Raises:
            UserError: the tracker went away or does not answer.
        """
        servers = self.status()["servers"]
        return not any(s["health"] for s in servers if s["address"] == str(address))

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> TrackerClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _command(self, code: Code, key: str | None, address: str | None) -> int:
        if self.status()["stock"]:
            raise UserError(
                f"this tracker cannot {code.name.lower()} servers",
                got=f"TVM's own tracker at {self.address}",
                allowed="codesign's tracker",
                next="stop the server itself, or run `codesign devices tracker` in its place",
            )
        return int(self._asked([code, {"key": key, "address": address}])[1])

    def _connect(self) -> None:
        try:
            self._socket = socket.create_connection(
                (self.address.host, self.address.port), self.seconds
            )
            self._socket.sendall(wire.magic(wire.TRACKER_MAGIC))
            until = time.monotonic() + self.seconds
            if wire.read_exactly(self._socket, 4, until) != wire.magic(wire.TRACKER_MAGIC):
                raise wire.WireError("something else answers there")
        except (OSError, wire.WireError) as error:
            raise unreachable(self.address, error) from None

    def _ask(self, message: list[Any]) -> Any:
        self._socket.settimeout(self.seconds)
        self._socket.sendall(wire.frame(message))
        answer = wire.read_frame(self._socket, time.monotonic() + self.seconds)
        if not isinstance(answer, list) or len(answer) != 2 or answer[0] != Code.SUCCESS:
            raise wire.WireError(f"the tracker answered {str(answer)[:200]}")
        return answer

    def _asked(self, message: list[Any]) -> Any:
        try:
            return self._ask(message)
        except (OSError, wire.WireError) as error:
            raise unreachable(self.address, error) from None


def unreachable(address: Address, error: object) -> UserError:
    """What to do when there is no tracker."""
    here = wire.is_loopback(address.host)
    port = "" if address.port == wire.TRACKER_PORT else f" --port {address.port}"
    start = f"codesign devices tracker{'' if here else ' --host 0.0.0.0'}{port}"
    if isinstance(error, socket.gaierror):
        what, mend = (
            "there is no machine of this name",
            "check the name, or give the address in numbers",
        )
    else:
        what, mend = "no tracker answers", start if here else f"on {address.host}: {start}"
    return UserError(
        what,
        got=f"{address}: {error}",
        allowed="the address of a running tracker, in --tracker or CODESIGN_TRACKER",
        next=mend,
    )


def _from_summary(summary: dict[str, Any]) -> dict[str, Any]:
    """TVM's SUMMARY in the form of STATUS."""
    servers = []
    for server in summary["server_info"]:
        health = server.get("codesign")
        servers.append(
            {
                "key": str(server["key"]).removeprefix("server:"),
                "address": str(Address(str(server["addr"][0]), int(server["addr"][1]))),
                "state": (health or {}).get("state"),
                "draining": False,
                "last_seen_s": None,
                "connected_s": None,
                "holder": None,
                "health": health,
            }
        )
    queues = {k: {**q, "waiting": None} for k, q in summary["queue_info"].items()}
    return {"version": 1, "stock": True, "queues": queues, "servers": servers}
