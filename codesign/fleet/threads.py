"""The threads of a fleet, as many as devices that work side by side; work done in them may ask for more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class Threads:
    """So many threads, which live until they are closed: a worker's process dies with the thread that started it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._inside = threading.local()
        self._pool = ThreadPoolExecutor(count, "device", initializer=self._enter)

    def _enter(self) -> None:
        self._inside.yes = True

    def submit(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Do it in one of the threads, when one is free."""
        return self._pool.submit(work, *args, **kwargs)

    def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do it and wait for it: in this thread if it is one of them, which would else wait for itself."""
        if getattr(self._inside, "yes", False):
            return work(*args, **kwargs)
        return self.submit(work, *args, **kwargs).result()

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[int, R]]:
        """Do it with each item, in all threads; not to be called in one of them.

        One thread takes an item when the result before it was consumed, so that the items may depend on it;
        for each of several another item lies ready.

        Returns:
            Number of the item and its result, as they come, so that each can be kept at once.

        Raises:
            Exception: the first that was raised, after all results that there are; no item is begun after it.
        """
        ready = 2 * self.count if self.count > 1 else 1
        numbered = enumerate(items)
        waiting: dict[Future[R], int] = {}
        done: SimpleQueue[Future[R]] = SimpleQueue()
        failed: Exception | None = None
        try:
            while True:
                for number, item in islice(numbered, 0 if failed else ready - len(waiting)):
                    future = self.submit(work, item)
                    waiting[future] = number
                    future.add_done_callback(done.put)
                if not waiting:
                    break
                future = done.get()
                number = waiting.pop(future)
                try:
                    result = future.result()
                except Exception as error:
                    failed = failed or error
                    _cancel(waiting)
                else:
                    yield number, result
        finally:
            _cancel(waiting)
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Wait for what is being done; what has not begun is cancelled."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _cancel(futures: Iterable[Future[R]]) -> None:
    for future in list(futures):
        future.cancel()
