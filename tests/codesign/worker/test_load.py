import os
import time
from types import SimpleNamespace

import psutil
import pytest

from codesign.worker.load import LoadMeter


@pytest.fixture
def machine(monkeypatch):
    """A machine of two processors whose clocks the test moves."""
    clock = {"now": 0.0, "own": 0.0, "others": 0.0, "guest": 0.0}

    def cpu_times():
        busy = clock["own"] + clock["others"]
        idle = 2 * clock["now"] - busy
        fields = {"user": busy, "idle": idle, "iowait": 0.0, "guest": clock["guest"]}
        return _Times(fields)

    class _Times(tuple):
        def __new__(cls, fields):
            self = super().__new__(cls, fields.values())
            self.__dict__.update(fields)
            return self

    monkeypatch.setattr(psutil, "cpu_times", cpu_times)
    monkeypatch.setattr(time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(os, "times", lambda: SimpleNamespace(user=clock["own"], system=0.0))
    return clock


def test_own_work_is_no_load(machine):
    meter = LoadMeter()
    machine.update(now=1.0, own=1.5)
    assert meter.others() == 0.0


def test_work_of_others_is_counted_in_cores(machine):
    meter = LoadMeter()
    machine.update(now=2.0, own=1.0, others=0.5)
    assert meter.others() == 0.25


def test_guests_are_not_counted_twice(machine):
    meter = LoadMeter()
    machine.update(now=1.0, others=0.5, guest=0.5)
    assert meter.others() == 0.5


def test_no_time_at_all(machine):
    assert LoadMeter().others() == 0.0
