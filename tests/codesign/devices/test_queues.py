"""Who gets which device."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codesign.devices.queues import Offer, Queue, Request


class _Case:
    """A queue of servers and clients that are strings."""

    def __init__(self) -> None:
        self.granted: list[tuple[str, str]] = []
        self.drained: set[str] = set()
        self.queue: Queue[str, str] = Queue(
            lambda request, offer: self.granted.append((request.client, offer.server)),
            lambda offer: offer.server not in self.drained,
        )

    def offer(self, server: str) -> None:
        self.queue.put(Offer(server, "host", 1, server))

    def ask(self, client: str, priority: int = 1) -> None:
        self.queue.request(Request(client, priority, 0.0))


def test_the_highest_priority_comes_first_then_the_first() -> None:
    case = _Case()
    for client, priority in (("a", 1), ("b", 5), ("c", 1), ("d", 5)):
        case.ask(client, priority)
    for server in "1234":
        case.offer(server)
    assert [client for client, _ in case.granted] == ["b", "d", "a", "c"]
    assert case.queue.free() == 0


def test_a_drained_server_waits_and_another_is_given() -> None:
    case = _Case()
    case.drained = {"1"}
    case.offer("1")
    case.offer("2")
    case.ask("a")
    case.ask("b")
    assert case.granted == [("a", "2")]
    assert case.queue.free() == 0
    case.drained.clear()
    case.queue.match()
    assert case.granted == [("a", "2"), ("b", "1")]


def test_who_is_gone_gets_nothing_and_gives_nothing() -> None:
    case = _Case()
    case.ask("a", 9)
    case.ask("b")
    case.queue.drop_client("a")
    assert [r.client for r in case.queue.waiting()] == ["b"]
    case.offer("1")
    case.offer("2")
    case.queue.drop_server("2")
    case.ask("c")
    assert case.granted == [("b", "1")]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=40))
def test_nobody_is_served_twice_and_nothing_free_waits(events: list[tuple[bool, int]]) -> None:
    case = _Case()
    asked = offered = 0
    for is_offer, priority in events:
        if is_offer:
            case.offer(str(offered := offered + 1))
        else:
            case.ask(str(asked := asked + 1), priority)
    clients, servers = {c for c, _ in case.granted}, {s for _, s in case.granted}
    assert len(clients) == len(servers) == len(case.granted) == min(asked, offered)
    assert case.queue.free() == offered - len(case.granted)
    assert len(case.queue.waiting()) == asked - len(case.granted)
