"""How much of the CPU others used."""

from __future__ import annotations

import os
import time

import pytest

from benchmarks.peers import cpu
from benchmarks.peers.cpu import Usage, machine_seconds

STAT = "cpu  1000 20 300 90000 500 4 6 70 11 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n"


def test_machine_seconds_counts_work_and_stolen_time_only() -> None:
    assert machine_seconds(STAT, 100) == pytest.approx((1000 + 20 + 300 + 4 + 6 + 70) / 100)


def test_foreign_is_what_neither_we_nor_the_idle_loop_used() -> None:
    before = Usage(wall=10.0, machine=100.0, own=50.0)
    after = Usage(wall=14.0, machine=107.0, own=55.0)
    assert after.foreign_since(before) == pytest.approx(0.5)


def test_rounding_never_makes_it_negative() -> None:
    assert Usage(1.0, 1.0, 1.02).foreign_since(Usage(0.0, 0.0, 0.0)) == 0.0


def test_own_time_grows_with_work() -> None:
    before = Usage.now([os.getpid()])
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert Usage.now([os.getpid()]).own - before.own >= 0.07


def test_a_process_that_ended_counts_nothing() -> None:
    assert Usage.now([2**22 + 1]).own == 0.0


def test_this_machine_has_a_name() -> None:
    assert cpu.name()
