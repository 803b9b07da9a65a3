"""Faults of devices: each is injected, nothing is lost, no wait is long, and the user is told."""

from __future__ import annotations

import shutil

import pytest

from benchmarks.faults import scenarios
from benchmarks.faults.killed_client import client_killed
from benchmarks.faults.scenarios import SCENARIOS

QUICK = ("kernel that crashes the server", "wrong TVM on the device")
TOLD = {
    "server killed in the middle of a measurement": "time_kernel failed",
    "tracker restarted": "no tracker answers",
    "device accepts and never answers": "no answer to 'open_session'",
    "device answers garbage": "no session",
    "device is slow 10x for a while": "of its usual speed",
    "disconnects in an upload": "does not take",
    "device runs out of disk": "no room",
    "kernel that crashes the server": "put down to the kernel",
    "two clients at once": "",
}


def scenario(name: str):
    marks = [] if name in QUICK else [pytest.mark.slow]
    return pytest.param(name, marks=marks, id=name.replace(" ", "_"))


@pytest.mark.parametrize("name", map(scenario, TOLD))
def test_a_fault_costs_no_measurement(name):
    if name == "kernel that crashes the server" and shutil.which("gcc") is None:
        pytest.skip("no gcc to build a kernel that crashes")
    try:
        result = SCENARIOS[name]()
    except PermissionError as error:
        pytest.skip(f"no small file system can be mounted: {error}")
    assert result.stopped == ""
    assert result.made == result.wanted
    assert result.longest_wait < scenarios.PATIENCE
    assert TOLD[name] in "\n".join(result.reported)


def test_a_device_with_another_tvm_stops_the_run_before_it_measures():
    result = SCENARIOS["wrong TVM on the device"]()
    assert result.made == 0
    assert "apache-tvm 0.26.0, not" in result.stopped
    assert "pip install apache-tvm==" in result.stopped
    assert result.longest_wait < 30


@pytest.mark.slow
def test_a_client_that_was_killed_measures_nothing_twice():
    result = client_killed()
    assert result.stopped == ""
    assert result.made == result.wanted >= 10
    assert "0 twice; a third run made 0" in result.reported[0]


def test_every_scenario_is_tested():
    assert set(SCENARIOS) == {*TOLD, "wrong TVM on the device"}
