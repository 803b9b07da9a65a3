"""How long a session is asked to last: by whose server it is, and by what will be asked in it."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any

import pytest

from codesign.devices import wire
from codesign.devices.tracker import TrackerThread
from codesign.devices.wire import Address, Code
from codesign.fleet.member import SESSION_SECONDS, STOCK_SECONDS, Member, Wanted
from codesign.worker import Failure, Reply

OURS, STOCK = {"state": "free"}, None


class Hand:
    """A worker that opens every session, and keeps how it was asked for."""

    def __init__(self) -> None:
        self.pid, self.generation = 1, 1
        self.asked: list[Mapping[str, Any]] = []

    def start(self) -> Failure | None:
        return None

    def request(self, op: str, params: Any = None, **options: Any) -> Reply:
        if op == "open_session":
            self.asked.append(params)
        return Reply({"serial": "s"})


def offer(tracker: TrackerThread, health: Any) -> socket.socket:
    """A server of the key ``k`` that tells this of its health, and one device of it."""
    server = socket.create_connection((tracker.address.host, tracker.address.port), 5)
    server.sendall(wire.magic(wire.TRACKER_MAGIC))
    until = time.monotonic() + 10
    wire.read_exactly(server, 4, until)
    info = {"key": "server:k", "addr": [None, "9090"]} | ({"codesign": health} if health else {})
    for message in ([Code.UPDATE_INFO, info], [Code.PUT, "k", [9090, f"k:{until}"], None]):
        server.sendall(wire.frame(message))
        assert wire.read_frame(server, until) == Code.SUCCESS
    return server


def ready(
    tracker: TrackerThread, health: Any, lasting: float
) -> tuple[Member, Hand, socket.socket]:
    server = offer(tracker, health)
    member, hand = Member(Wanted(tracker.address, "k")), Hand()
    member.worker.close()
    member.worker = hand  # type: ignore[assignment]
    assert member.ready(5, lasting=lasting) is None
    return member, hand, server


@pytest.mark.parametrize(
    ("health", "lasting", "seconds"),
    [
        (OURS, 40.0, SESSION_SECONDS),
        (STOCK, 40.0, STOCK_SECONDS),
        (STOCK, 300.5, 331),
        (OURS, 800.0, 830),
    ],
)
def test_a_server_that_cannot_tell_that_its_client_died_is_asked_for_less(health, lasting, seconds):
    with TrackerThread() as tracker:
        _, hand, server = ready(tracker, health, lasting)
        server.close()
    (asked,) = hand.asked
    assert asked["seconds"] == seconds
    assert isinstance(asked["seconds"], int)  # TVM's C++ server dies of a fraction


def test_a_session_that_would_end_within_a_request_is_renewed_before_it():
    with TrackerThread() as tracker:
        member, hand, server = ready(tracker, STOCK, 40.0)
        assert member.ready(5, lasting=STOCK_SECONDS - 10) is None
        assert len(hand.asked) == 1
        with offer(tracker, STOCK):
            assert member.ready(5, lasting=STOCK_SECONDS + 10) is None
        server.close()
    assert [a["seconds"] for a in hand.asked] == [STOCK_SECONDS, STOCK_SECONDS + 40]


def test_who_waits_in_vain_is_told_how_the_devices_are():
    with TrackerThread() as tracker:
        offer(tracker, STOCK).close()
        member = Member(Wanted(tracker.address, "k"))
        try:
            failure = member.ready(0.5)
        finally:
            member.drop()
    assert failure is not None
    assert failure.kind == "absent"
    assert "127.0.0.1:9090 is gone, last seen" in failure.text


def test_a_tracker_that_is_gone_is_told_as_that():
    member = Member(Wanted(Address("127.0.0.1", 1), "k"))
    try:
        failure = member.ready(0.5)
    finally:
        member.drop()
    assert failure is not None
    assert "no tracker answers" in failure.text
