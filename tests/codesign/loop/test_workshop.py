"""A workshop decides about chains by the times of their parts, and tunes no part in vain."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from codesign.fusion import KernelChain
from codesign.kernels import Kernel
from codesign.loop import workshop as module
from codesign.loop.workshop import Workshop
from codesign.measurement import Measurement, Protocol
from codesign.progress import Silent
from codesign.station import Station
from codesign.tune import Tuned
from targets.target import find


def chain(width, name="linear+add | layer_norm"):
    """A product of some width, a sum and a norm; the product may be parted from the sum."""
    spans = [(0, 2), (2, 3), (0, 1), (1, 2), (1, 3)]
    parts = {s: Kernel(f"{width}:{s[0]}{s[1]}", None, f"k{s[0]}{s[1]}", 1) for s in spans}
    return KernelChain(f"chain{width}", name, parts, ((0, 2), (2, 3)))


@pytest.fixture
def shop(monkeypatch):
    """A workshop whose kernels take what ``times`` says, in microseconds."""
    times, asked = {}, []

    def tune(kernels, *_, **__):
        asked.append([k.hash for k in kernels])
        found = {}
        for kernel in kernels:
            us = times[kernel.hash.split(":")[-1]]
            taken = Measurement(seconds=us * 1e-6, ratio=us / 100)
            if us == 0:
                taken = Measurement.failed("it does not run")
            found[kernel.hash] = Tuned(None, taken, 1, 0)
        return found

    monkeypatch.setattr(module, "tune", tune)
    rig = SimpleNamespace(protocol=Protocol())
    made = Workshop(Station(find("host"), "here", rig), None, 1, None, Silent())
    return SimpleNamespace(made=made, times=times, asked=asked)


def test_what_gains_is_tuned_at_other_widths(shop):
    shop.times |= {"02": 10, "23": 10, "01": 5, "12": 4, "13": 8}
    shop.made.tune([chain(64)])
    assert shop.made.choice("chain64").parts == ((0, 1), (1, 3))
    assert shop.made.seconds("chain64") == pytest.approx(13e-6)
    assert shop.made.kernel_seconds({"chain64": 2, "64:02": 1}) == pytest.approx(36e-6)
    shop.made.tune([chain(32)])
    assert {h for hashes in shop.asked for h in hashes if h.startswith("32")} == {
        "32:02", "32:23", "32:01", "32:12", "32:13",
    }  # fmt: skip
    assert shop.made.choice("chain32").parts == ((0, 1), (1, 3))


def test_what_does_not_gain_is_not_tuned_at_other_widths(shop):
    shop.times |= {"02": 10, "23": 10, "01": 9, "12": 4, "13": 12}
    shop.made.tune([chain(64), chain(48)])
    assert shop.made.choice("chain64").parts == ((0, 2), (2, 3))
    assert shop.made.seconds("chain64") == pytest.approx(20e-6)
    shop.made.tune([chain(32), chain(16, "linear+mul | layer_norm")])
    tuned = {h for hashes in shop.asked for h in hashes}
    assert {h for h in tuned if h[:2] in ("32", "48")} == {"32:02", "32:23", "48:02", "48:23"}
    assert len([h for h in tuned if h.startswith("16")]) == 5  # another chain
    before = len(shop.asked)
    shop.made.tune([chain(64), chain(32)])
    assert len(shop.asked) == before


def test_a_part_that_does_not_run_is_not_chosen(shop):
    shop.times |= {"02": 10, "23": 10, "01": 1, "12": 4, "13": 0}
    shop.made.tune([chain(64)])
    assert shop.made.choice("chain64").parts == ((0, 1), (1, 2), (2, 3))
    shop.times |= {"02": 0}
    shop.made.tune([replace(chain(32), name="other")])
    assert shop.made.choice("chain32").parts == ((0, 1), (1, 2), (2, 3))
