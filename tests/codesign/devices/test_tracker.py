"""The tracker, asked by hand, by TVM's client and by ours; and our client at TVM's tracker."""

from __future__ import annotations

import functools
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.devices import connection, wire
from codesign.devices.client import TrackerClient
from codesign.devices.tracker import TrackerThread
from codesign.devices.wire import Address, Code
from codesign.errors import UserError
from codesign.fleet.tracker import queue_of

SECONDS = 10.0


class Peer:
    """A server or a client that says only what a test tells it to."""

    def __init__(self, tracker: TrackerThread) -> None:
        self.socket = socket.create_connection((tracker.address.host, tracker.address.port), 5)
        self.socket.sendall(wire.magic(wire.TRACKER_MAGIC))
        until = time.monotonic() + SECONDS
        assert wire.read_exactly(self.socket, 4, until) == wire.magic(wire.TRACKER_MAGIC)

    def send(self, *message: Any) -> None:
        self.socket.sendall(wire.frame(list(message)))

    def read(self, seconds: float = SECONDS) -> Any:
        return wire.read_frame(self.socket, time.monotonic() + seconds)

    def ask(self, *message: Any) -> Any:
        self.send(*message)
        return self.read()

    def offer(self, key: str, port: int, match_key: str, host: str | None = None) -> None:
        info = {"key": f"server:{key}", "addr": [host, port]}
        assert self.ask(Code.UPDATE_INFO, info) == Code.SUCCESS
        assert self.ask(Code.PUT, key, [port, match_key], host) == Code.SUCCESS

    def is_closed(self) -> bool:
        return _hung_up(self.socket)

    def close(self) -> None:
        self.socket.close()


def _hung_up(stream: socket.socket) -> bool:
    stream.settimeout(SECONDS)
    try:
        return not stream.recv(1)
    except ConnectionError:
        return True


@pytest.fixture
def running() -> Iterator[TrackerThread]:
    with TrackerThread() as tracker:
        yield tracker


@pytest.fixture
def peer(running: TrackerThread) -> Iterator[Callable[[], Peer]]:
    peers: list[Peer] = []

    def make() -> Peer:
        peers.append(Peer(running))
        return peers[-1]

    yield make
    for made in peers:
        made.close()


@functools.cache
def _shared() -> TrackerThread:
    """One tracker for all examples of a property; it ends with this process."""
    return TrackerThread()


def _eventually(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return False


def _one(tracker: TrackerThread) -> dict[str, Any]:
    with TrackerClient(tracker.address) as client:
        (server,) = client.status()["servers"]
    return server


def test_tvms_client_reads_our_summary(running: TrackerThread, peer: Callable[[], Peer]) -> None:
    from tvm import rpc

    server, waiting = peer(), peer()
    server.offer("pi", 9090, "pi:1")
    waiting.send(Code.REQUEST, "phone", "", 1)
    stock = rpc.connect_tracker(running.address.host, running.address.port)
    assert _eventually(lambda: stock.summary()["queue_info"].get("phone") is not None)
    assert stock.summary() == {
        "queue_info": {"pi": {"free": 1, "pending": 0}, "phone": {"free": 0, "pending": 1}},
        "server_info": [{"key": "server:pi", "addr": ["127.0.0.1", 9090]}],
    }
    assert "127.0.0.1:9090" in stock.text_summary()
    stock.close()


def test_tvms_server_in_c_plus_plus_sends_its_port_as_text(
    running: TrackerThread, peer: Callable[[], Peer]
) -> None:
    server = peer()
    info = {"key": "server:android", "addr": [None, "5000"]}
    assert server.ask(Code.UPDATE_INFO, info) == Code.SUCCESS
    assert server.ask(Code.PUT, "android", [5000, "android:0.5"], None) == Code.SUCCESS
    assert _one(running)["address"] == "127.0.0.1:5000"
    assert _one(running)["state"] == "free"


def test_tvms_server_in_c_plus_plus_without_a_port_is_shown_as_ill_and_not_handed_out(
    running: TrackerThread, peer: Callable[[], Peer]
) -> None:
    server = peer()
    assert server.ask(Code.UPDATE_INFO, {"key": "server:pi", "addr": [None, "-1"]}) == Code.SUCCESS
    assert (
        server.ask(Code.PUT, "pi", [-1, "pi:0.1"], None) == Code.SUCCESS
    )  # else it comes again at once
    assert server.ask(Code.GET_PENDING_MATCHKEYS) == []
    with TrackerClient(running.address) as client:
        status = client.status()
        (one,) = status["servers"]
        assert one["state"] == "ill"
        assert "--port-end" in one["health"]["error"]
        assert status["queues"]["pi"]["free"] == 0
    queue = queue_of(running.address, "pi")
    assert queue.servers == 0
    assert "127.0.0.1:0 is ill: no port was free" in queue.told
    server.close()
    with TrackerClient(running.address) as client:
        assert _eventually(lambda: client.status()["servers"] == [])


@pytest.mark.parametrize("how", ["forgotten", "closed"])
def test_a_server_hears_of_the_end_of_its_connection_at_its_first_write(
    running: TrackerThread, peer: Callable[[], Peer], how: str
) -> None:
    server = peer()
    server.offer("pi", 9090, "pi:1")
    if how == "closed":
        running.close()
    else:
        with TrackerClient(running.address) as client:
            client.forget("pi", None)
    select.select([server.socket], [], [], SECONDS)
    with pytest.raises(
        ConnectionResetError
    ):  # the C++ server's second write would end it with SIGPIPE
        server.socket.sendall(b"part one")


def test_an_offer_goes_to_one_client_and_leaves_the_pending_keys(peer: Callable[[], Peer]) -> None:
    server, client, late = peer(), peer(), peer()
    server.offer("pi", 9090, "pi:1", "10.0.0.7")
    assert server.ask(Code.GET_PENDING_MATCHKEYS) == ["pi:1"]
    assert client.ask(Code.REQUEST, "pi", "", 1) == [Code.SUCCESS, ["10.0.0.7", 9090, "pi:1"]]
    assert server.ask(Code.GET_PENDING_MATCHKEYS) == []
    late.send(Code.REQUEST, "pi", "", 1)
    server.offer("pi", 9090, "pi:2", "10.0.0.7")
    assert late.read()[1][2] == "pi:2"
    assert client.ask(Code.PING) == Code.SUCCESS


def test_a_client_that_left_is_not_served(running: TrackerThread, peer: Callable[[], Peer]) -> None:
    server, gone, stays = peer(), peer(), peer()
    gone.send(Code.REQUEST, "pi", "", 9)
    with TrackerClient(running.address) as client:
        assert _eventually(lambda: "pi" in client.status()["queues"])
        gone.close()
        assert _eventually(lambda: client.status()["queues"]["pi"]["pending"] == 0)
    server.offer("pi", 9090, "pi:1")
    assert stays.ask(Code.REQUEST, "pi", "", 1)[1][2] == "pi:1"


def test_a_server_that_left_is_not_handed_out_and_shows_as_gone(
    running: TrackerThread, peer: Callable[[], Peer]
) -> None:
    server = peer()
    server.offer("pi", 9090, "pi:1")
    assert _one(running)["state"] == "free"
    server.close()
    assert _eventually(lambda: _one(running)["state"] == "gone")
    client = peer()
    client.send(Code.REQUEST, "pi", "", 1)
    back = peer()
    back.offer("pi", 9090, "pi:2")
    assert client.read()[1][2] == "pi:2"
    assert _one(running)["state"] == "busy"
    assert _one(running)["holder"]["peer"] == "127.0.0.1"


def test_a_drained_server_is_not_handed_out_until_resumed(
    running: TrackerThread, peer: Callable[[], Peer]
) -> None:
    server, client = peer(), peer()
    server.offer("pi", 9090, "pi:1")
    with TrackerClient(running.address) as commands:
        assert commands.drain("pi", None) == 1
        assert commands.status()["servers"][0]["state"] == "draining"
        assert commands.status()["queues"]["pi"]["free"] == 0
        client.send(Code.REQUEST, "pi", "", 1)
        with pytest.raises(TimeoutError):
            client.read(0.3)
        server.close()
        again = peer()
        again.offer("pi", 9090, "pi:2")  # it stays drained when it comes back
        assert commands.status()["servers"][0]["draining"]
        assert commands.resume(None, "127.0.0.1:9090") == 1
        assert client.read()[1][2] == "pi:2"
        assert commands.drain("other", None) == 0


def test_a_forgotten_server_is_struck_off_and_hung_up_on(
    running: TrackerThread, peer: Callable[[], Peer]
) -> None:
    server = peer()
    server.offer("pi", 9090, "pi:1")
    with TrackerClient(running.address) as commands:
        assert commands.forget("pi", None) == 1
        assert commands.status()["servers"] == []
        assert server.is_closed()
        assert commands.status()["queues"]["pi"]["free"] == 0


def test_a_server_that_comes_back_takes_the_place_of_its_dead_connection(
    running: TrackerThread, peer: Callable[[], Peer]
) -> None:
    old, new, client = peer(), peer(), peer()
    old.offer("pi", 9090, "pi:1")
    new.offer("pi", 9090, "pi:2")
    assert old.is_closed()
    assert _eventually(lambda: _one(running)["state"] == "free")
    assert client.ask(Code.REQUEST, "pi", "", 1)[1][2] == "pi:2"


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<i", -1),
        struct.pack("<i", 2**31 - 1),
        struct.pack("<i", 4) + b"\xff\xff\xff\xff",
        wire.frame([99]),
        wire.frame([]),
        wire.frame({"a": 1}),
        wire.frame("text"),
        wire.frame([Code.PUT]),
        wire.frame([Code.PUT, "k" * 5000, [1, "m"], None]),
        wire.frame([Code.PUT, "k", [None, "m"], None]),
        wire.frame([Code.REQUEST, "k", "", None]),
        wire.frame([Code.UPDATE_INFO, {"key": 5}]),
        wire.frame([Code.UPDATE_INFO, "x"]),
        wire.frame([Code.DRAIN, {}]),
        wire.frame([Code.STOP]),
    ],
)
def test_bad_messages_end_their_connection_and_nothing_else(
    running: TrackerThread, peer: Callable[[], Peer], data: bytes
) -> None:
    bad, good = peer(), peer()
    bad.socket.sendall(data)
    assert bad.is_closed()
    assert good.ask(Code.PING) == Code.SUCCESS


@given(
    code=st.sampled_from([*Code, 99]),
    rest=st.lists(
        st.none()
        | st.integers(-(10**30), 10**30)
        | st.floats()
        | st.sampled_from(["k", "", "a b", "[", "x" * 2000, "server:k"])
        | st.fixed_dictionaries(
            {"key": st.sampled_from(["k", None, 5])},
            optional={
                "addr": st.lists(st.sampled_from([None, "h", "[x", 9, 10**9, "1e3"]), max_size=3),
                "address": st.sampled_from(["h:9", None, 7]),
                "codesign": st.sampled_from([{}, {"state": "free"}, 5, {"x": "y" * 20_000}]),
            },
        )
        | st.lists(st.sampled_from([1, -1, 10**9, "m", None]), max_size=3),
        max_size=4,
    ),
)
@settings(deadline=None, max_examples=150)
def test_whatever_one_says_the_others_are_answered(code: int, rest: list[Any]) -> None:
    tracker = _shared()
    odd, good = Peer(tracker), Peer(tracker)
    try:
        odd.send(code, *rest)
        assert good.ask(Code.PING) == Code.SUCCESS
        success, summary = good.ask(Code.SUMMARY)
        assert success == Code.SUCCESS
        assert set(summary) == {"queue_info", "server_info"}
        assert good.ask(Code.STATUS)[0] == Code.SUCCESS
    finally:
        odd.close()
        good.close()


def test_strangers_and_the_silent_are_dropped(
    running: TrackerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_HELLO_SECONDS", 0.2)
    monkeypatch.setattr(connection, "_MESSAGE_SECONDS", 0.2)
    at = (running.address.host, running.address.port)
    with socket.create_connection(at, 5) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert _hung_up(stranger)
    with socket.create_connection(at, 5) as silent:
        assert _hung_up(silent)
    half = Peer(running)
    half.socket.sendall(struct.pack("<i", 100) + b"[1")
    assert half.is_closed()
    quiet = Peer(running)  # one that has said hello may be silent: servers are, in a session
    time.sleep(0.5)
    assert quiet.ask(Code.PING) == Code.SUCCESS
    quiet.close()


def test_only_the_right_key_stops_it(running: TrackerThread, peer: Callable[[], Peer]) -> None:
    assert peer().ask(Code.STOP, "tracker:0.5") == Code.FAIL
    assert peer().ask(Code.STOP, running._tracker.stop_key) == Code.SUCCESS
    running._thread.join(SECONDS)
    assert not running._thread.is_alive()


def test_no_tracker_is_a_users_error_with_the_command_to_run() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as caught:
            TrackerClient(Address("127.0.0.1", port))
        assert f"codesign devices tracker --port {port}" in caught.value.next
        taken.listen(1)  # now something listens, and says nothing
        before = time.monotonic()
        with pytest.raises(UserError):
            TrackerClient(Address("127.0.0.1", port), seconds=0.3)
        assert time.monotonic() - before < SECONDS


def test_our_client_at_tvms_tracker_knows_what_it_cannot_do() -> None:
    from tvm.rpc.tracker import Tracker

    stock = Tracker("127.0.0.1", 9300, 9400, silent=True)
    try:
        with TrackerClient(Address("127.0.0.1", stock.port)) as client:
            server = socket.create_connection(("127.0.0.1", stock.port), 5)
            server.sendall(wire.magic(wire.TRACKER_MAGIC))
            wire.read_exactly(server, 4, time.monotonic() + SECONDS)
            info = {"key": "server:pi", "addr": [None, 9]}
            server.sendall(wire.frame([Code.UPDATE_INFO, info]))
            wire.read_frame(server, time.monotonic() + SECONDS)
            status = client.status()
            assert status["stock"]
            (found,) = status["servers"]
            assert (found["key"], found["address"]) == ("pi", "127.0.0.1:9")
            assert found["state"] is None
            for command in (client.drain, client.resume, client.forget):
                with pytest.raises(UserError) as caught:
                    command("pi", None)
                assert "TVM's own tracker" in caught.value.got
            server.close()
    finally:
        stock.terminate()
