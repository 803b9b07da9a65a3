"""Who gets which device: offers of servers and requests of clients, by key. No network here."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

S = TypeVar("S")
C = TypeVar("C")


@dataclass(eq=False)
class Offer(Generic[S]):
    """A server that waits for a client, under a match key that only that client will know."""

    server: S
    host: str
    port: int
    match_key: str


@dataclass(eq=False)
class Request(Generic[C]):
    """A client that waits for a device of a key, since ``since`` (monotonic seconds)."""

    client: C
    priority: int
    since: float
    gone: bool = False


@dataclass
class Queue(Generic[S, C]):
    """Offers and requests of one key: highest priority first, then first come, first served.

    Args:
        grant: called for each pair that was brought together.
        willing: whether an offer may be handed out now (a drained server is not).
    """

    grant: Callable[[Request[C], Offer[S]], None]
    willing: Callable[[Offer[S]], bool]
    offers: list[Offer[S]] = field(default_factory=list)
    _requests: list[tuple[int, int, Request[C]]] = field(default_factory=list)
    _count: itertools.count[int] = field(default_factory=itertools.count)

    def put(self, offer: Offer[S]) -> None:
        self.offers.append(offer)
        self.match()

    def request(self, request: Request[C]) -> None:
        heapq.heappush(self._requests, (-request.priority, next(self._count), request))
        self.match()

    def match(self) -> None:
        """Bring together what waits; call it when an offer has become willing."""
        while self.waiting():
            offer = next((o for o in self.offers if self.willing(o)), None)
            if offer is None:
                return
            self.offers.remove(offer)
            _, _, request = heapq.heappop(self._requests)
            request.gone = True
            self.grant(request, offer)

    def waiting(self) -> list[Request[C]]:
        """The living requests in the order in which they will be served."""
        while self._requests and self._requests[0][2].gone:
            heapq.heappop(self._requests)
        return [r for _, _, r in sorted(self._requests, key=lambda r: r[:2]) if not r.gone]

    def free(self) -> int:
        """Number of offers that would be handed out."""
        return sum(map(self.willing, self.offers))

    def drop_server(self, server: S) -> None:
        self.offers = [o for o in self.offers if o.server is not server]

    def drop_client(self, client: C) -> None:
        for _, _, request in self._requests:
            request.gone |= request.client is client
        self.waiting()
