"""Free members: who holds a device goes first, who is idle is found, who has none waits."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from codesign.fleet.pool import Pool


@dataclass(eq=False)
class Member:
    """What a pool needs to know of a member."""

    name: str
    holds: bool = False


def test_members_that_hold_a_device_are_taken_first_the_last_used_before_others():
    a, b, c = Member("a"), Member("b", holds=True), Member("c", holds=True)
    pool = Pool([a, b, c])
    assert [pool.take() for _ in range(3)] == [c, b, a]


def test_without_a_device_the_longest_idle_goes_first():
    a, b = Member("a"), Member("b")
    pool = Pool([a, b])
    pool.put(pool.take())  # a was used
    assert [pool.take(), pool.take()] == [b, a]


def test_what_was_put_back_with_a_device_is_taken_again():
    a, b = Member("a"), Member("b", holds=True)
    pool = Pool([a, b])
    for _ in range(3):
        taken = pool.take()
        assert taken is b
        pool.put(taken)


def test_one_waits_until_a_member_is_put_back():
    only = Member("only")
    pool = Pool([only])
    assert pool.take() is only
    got = []
    waiting = threading.Thread(target=lambda: got.append(pool.take()), daemon=True)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    assert got == []
    pool.put(only)
    waiting.join(10)
    assert got == [only]


def test_no_member_is_taken_twice_by_threads():
    members = [Member(str(i), holds=i % 2 == 0) for i in range(3)]
    pool, taken, twice = Pool(members), set(), []
    lock = threading.Lock()

    def work():
        for _ in range(100):
            member = pool.take()
            with lock:
                twice.extend([member] if member in taken else [])
                taken.add(member)
            with lock:
                taken.remove(member)
            pool.put(member)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert twice == []


def test_idle_members_are_found_each_once_even_if_put_back():
    a, b = Member("a"), Member("b", holds=True)
    pool = Pool([a, b])
    time.sleep(0.05)
    seen = []
    for member in pool.idle(0.02):
        seen.append(member)
        pool.put(member)
    assert seen == [a, b]
    assert list(pool.idle(10.0)) == []
    assert {pool.take(), pool.take()} == {a, b}  # all are free again


def test_a_member_that_is_in_use_is_not_idle():
    a, b = Member("a"), Member("b")
    pool = Pool([a, b])
    assert pool.take() is a
    time.sleep(0.02)
    assert list(pool.idle(0.01)) == [b]
