"""What a tracker says of the devices of a key; bounded in time, for a tracker may be gone."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from codesign.devices import wire
from codesign.devices.wire import Address

SECONDS = 5.0
"""How long a tracker may take to answer."""


@dataclass(frozen=True)
class Queue:
    """The devices of one key.

    Attributes:
        servers: registered with the tracker.
        free: waiting for a client.
        pending: clients that wait for a device.
    """

    servers: int
    free: int
    pending: int


def queue_of(tracker: Address, key: str, seconds: float = SECONDS) -> Queue:
    """How many devices and clients a key has.

    Raises:
        OSError: the tracker cannot be reached, or does not answer in time.
        WireError: what answers is no tracker.
    """
    until = time.monotonic() + seconds
    with socket.create_connection((tracker.host, tracker.port), timeout=seconds) as connection:
        connection.sendall(wire.magic(wire.TRACKER_MAGIC))
        if wire.read_exactly(connection, 4, until) != wire.magic(wire.TRACKER_MAGIC):
            raise wire.WireError(f"{tracker} is no tracker")
        connection.sendall(wire.frame([wire.Code.SUMMARY]))
        answer = wire.read_frame(connection, until)
    try:
        said = answer[1]
        counts = said["queue_info"].get(key, {})
        servers = [s for s in said["server_info"] if s["key"] == f"server:{key}"]
        return Queue(len(servers), int(counts.get("free", 0)), int(counts.get("pending", 0)))
    except (LookupError, TypeError, AttributeError) as error:
        raise wire.WireError(f"{tracker} answers otherwise than a tracker: {error}") from None
