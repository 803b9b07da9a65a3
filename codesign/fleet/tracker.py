"""What a tracker says of the devices of a key; bounded in time, for a tracker may be gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from codesign.devices.client import TrackerClient
from codesign.devices.wire import Address


@dataclass(frozen=True)
class Queue:
    """The devices of one key.

    Attributes:
        servers: that the tracker can hand out now or later: neither drained nor gone.
        free: waiting for a client.
        pending: clients that wait for a device.
        away: where it can hand out none, which there are and why not, in a line; "" if it knows none at all.
        keys: that it has servers of.
    """

    servers: int
    free: int
    pending: int
    away: str = ""
    keys: tuple[str, ...] = ()


def queue_of(tracker: Address, key: str) -> Queue:
    """How many devices and clients a key has.

    Raises:
        UserError: the tracker cannot be reached, or does not answer in time.
    """
    with TrackerClient(tracker) as client:
        said = client.status()
    known = [s for s in said["servers"] if s["key"] == key]
    servers = [s for s in known if not s["draining"] and s["state"] != "gone"]
    counts = said["queues"].get(key, {})
    return Queue(
        len(servers),
        int(counts.get("free", 0)),
        int(counts.get("pending", 0)),
        "" if servers else "; ".join(_why_not(s) for s in known),
        tuple(sorted({s["key"] for s in said["servers"] if s["state"] != "gone"})),
    )


def _why_not(server: Mapping[str, Any]) -> str:
    where = f"its server at {server['address']}"
    if server["state"] != "gone":
        return f"{where} is drained: codesign devices resume {server['key']}"
    seen = server["last_seen_s"]
    return f"{where} is gone" + ("" if seen is None else f", last seen {seen:.0f} s ago")
