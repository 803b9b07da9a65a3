"""Work done side by side: every item once, errors after what is there, and nothing waits for itself."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError

import pytest

from codesign.fleet.threads import Threads


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    made = Threads(request.param)
    yield made
    made.close()


def in_time(work, seconds=20):
    """The result of work that is to end by itself, or the exception that it raised."""
    got = []

    def run():
        try:
            got.append(work())
        except Exception as error:
            got.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it waits for ever"
    return got[0]


def test_every_item_is_done_once_in_one_of_the_threads(threads):
    seen = set()

    def work(item):
        seen.add(threading.get_ident())
        time.sleep(0.001)
        return item * item

    assert dict(threads.each(work, range(40))) == {n: n * n for n in range(40)}
    assert len(seen) == threads.count
    assert threading.get_ident() not in seen


def test_nothing_to_do_is_nothing(threads):
    assert list(threads.each(str, [])) == []


def test_as_many_are_done_at_once_as_there_are_threads(threads):
    together = threading.Barrier(threads.count)
    items = range(3 * threads.count)
    assert len(list(threads.each(lambda _: together.wait(20), items))) == len(items)


def test_work_may_ask_for_more_where_all_threads_are_busy(threads):
    def work(item):
        return threads.run(lambda: (threads.run(str, item), threading.get_ident()))

    found = in_time(lambda: list(threads.each(work, range(10))))
    assert sorted(text for _, (text, _) in found) == [str(n) for n in range(10)]
    assert threads.run(threading.get_ident) != threading.get_ident()


def test_one_thread_takes_an_item_when_the_result_before_it_was_consumed():
    threads, consumed = Threads(1), []

    def items():
        for n in range(5):
            assert consumed == list(range(n))
            yield n

    for _, n in threads.each(int, items()):
        consumed.append(n)
    assert consumed == [0, 1, 2, 3, 4]
    threads.close()


def test_of_many_items_only_some_lie_ready(threads):
    taken = []

    def items():
        for n in range(1000):
            taken.append(n)
            yield n

    results = threads.each(int, items())
    for _ in range(3):
        next(results)
    assert len(taken) <= 3 + 2 * threads.count
    results.close()


@pytest.mark.parametrize("from_on", [0, 3, 19])
def test_an_error_comes_after_what_was_done(threads, from_on):
    got, begun = [], []

    def work(item):
        begun.append(item)
        time.sleep(0.01)
        if item >= from_on:
            raise LookupError(f"no device for {item}")
        return item

    def run():
        got.extend(threads.each(work, range(20)))

    assert isinstance(in_time(run), LookupError)
    assert sorted(got) == [(n, n) for n in range(from_on)]
    assert len(begun) <= from_on + 2 * threads.count


def test_closing_ends_what_waits_for_results():
    threads, begun = Threads(1), threading.Event()

    def slow(item):
        begun.set()
        time.sleep(0.2)
        return item

    def close():
        assert begun.wait(10)
        threads.close()

    threading.Thread(target=close, daemon=True).start()
    assert isinstance(
        in_time(lambda: list(threads.each(slow, range(30)))), RuntimeError | CancelledError
    )
