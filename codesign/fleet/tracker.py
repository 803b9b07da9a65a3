"""What a tracker says of the devices of a key; bounded in time, for a tracker may be gone."""

from __future__ import annotations

from dataclasses import dataclass

from codesign.devices.client import TrackerClient
from codesign.devices.wire import Address


@dataclass(frozen=True)
class Queue:
    """The devices of one key.

    Attributes:
        servers: registered with the tracker, those that are drained left out.
        free: waiting for a client.
        pending: clients that wait for a device.
    """

    servers: int
    free: int
    pending: int


def queue_of(tracker: Address, key: str) -> Queue:
    """How many devices and clients a key has.

    Raises:
        UserError: the tracker cannot be reached, or does not answer in time.
    """
    with TrackerClient(tracker) as client:
        said = client.status()
    servers = [s for s in said["servers"] if s["key"] == key and not s["draining"]]
    counts = said["queues"].get(key, {})
    return Queue(len(servers), int(counts.get("free", 0)), int(counts.get("pending", 0)))
