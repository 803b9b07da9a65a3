"""What a tracker says of the devices of a key; bounded in time, for a tracker may be gone."""

from __future__ import annotations

from dataclasses import dataclass

from codesign.devices.client import TrackerClient
from codesign.devices.listing import condition_of
from codesign.devices.wire import Address


@dataclass(frozen=True)
class Queue:
    """The devices of one key.

    Attributes:
        servers: that the tracker can hand out now or later: neither drained nor gone nor ill.
        free: waiting for a client.
        pending: clients that wait for a device.
        told: how each server that was ever registered is, in words; "" without any.
        keys: that the tracker has servers of.
    """

    servers: int
    free: int
    pending: int
    told: str = ""
    keys: tuple[str, ...] = ()

    @property
    def away(self) -> str:
        """Where none can be handed out, which there are and why not; "" if the tracker knows none at all."""
        return "" if self.servers else self.told


def queue_of(tracker: Address, key: str) -> Queue:
    """How many devices and clients a key has.

    Raises:
        UserError: the tracker cannot be reached, or does not answer in time.
    """
    with TrackerClient(tracker) as client:
        said = client.status()
    known = [s for s in said["servers"] if s["key"] == key]
    able = [s for s in known if not s["draining"] and s["state"] not in ("gone", "ill")]
    counts = said["queues"].get(key, {})
    return Queue(
        len(able),
        int(counts.get("free", 0)),
        int(counts.get("pending", 0)),
        "; ".join(map(condition_of, known)),
        tuple(sorted({s["key"] for s in said["servers"] if s["state"] != "gone"})),
    )
