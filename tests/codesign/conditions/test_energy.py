"""Energy from counters and from power, less what the device takes at rest; or a reason."""

from __future__ import annotations

import random
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.conditions.energy import Energy, Reading, energy
from codesign.conditions.meters import battery_meter, command_meter, local_meter, rapl_meter
from codesign.conditions.state import Battery, DeviceState
from codesign.conditions.sustained import Plan, run_sustained


def counter(watts, seconds, step=0.1, start=0.0, every=1.0):
    """A counter that shows whole steps."""
    return [
        Reading(i * every, step * int((start + watts * i * every) / step))
        for i in range(int(seconds / every) + 1)
    ]


def test_a_counter_less_the_rest():
    found = energy(counter(0.5, 60), counter(4.5, 60), 1000, "battery")
    assert found.joules == pytest.approx(4.0 * 60 / 1000, rel=0.02)
    assert found.rest_watts == pytest.approx(0.5, rel=0.05)
    assert found.uncertainty_joules == pytest.approx(2 * 0.5 / 1000)  # its smallest move
    assert str(found).startswith(
        "energy: 240 mJ per inference (within 1); battery, counter, 0.50 W"
    )


def test_a_coarse_counter_says_so():
    found = energy([], counter(4.0, 20, step=14.0), 100, "battery")
    assert found.joules is None
    assert "moves by 14 J, too coarse for a run of 20.0 s" in str(found)
    still = energy([], counter(0.1, 20, step=14.0), 100, "battery")
    assert "never moved" in still.reason


def test_power_helps_where_the_counter_is_too_coarse():
    run = [replace(r, watts=4.0) for r in counter(4.0, 20, step=14.0)]
    found = energy([Reading(float(i), watts=1.0) for i in range(10)], run, 100, "battery")
    assert found.joules == pytest.approx(3.0 * 20 / 100)
    assert found.how == "battery, power integrated"
    assert found.uncertainty_joules is None


def test_without_rest_it_is_gross_and_says_so():
    found = energy([], counter(4.0, 60), 100, "battery")
    assert found.rest_watts is None
    assert "gross" in str(found)


def test_what_cannot_be_told_apart_from_rest():
    found = energy(counter(2.0, 60), counter(2.0, 60), 100, "battery")
    assert "J from rest, and chance alone by" in found.reason
    assert "nothing ran" in energy([], [], 100, "x").reason
    assert "nothing ran" in energy([], counter(4.0, 60), 0, "x").reason
    assert (
        "fewer than 5 times"
        in energy([], [Reading(0, watts=1), Reading(9, watts=1)], 5, "x").reason
    )


def noisy(watts, count, seed):
    rng = random.Random(seed)
    return [Reading(float(i), watts=watts + rng.uniform(-1, 1)) for i in range(count)]


def test_chance_is_no_energy():
    """Power that wavers takes more than at rest in half of the runs, by chance alone."""
    found = [energy(noisy(6, 6, s), noisy(6, 60, 99 + s), 100, "meter") for s in range(40)]
    assert sum(e.joules is not None for e in found) <= 4
    real = energy(noisy(6, 30, 1), noisy(10, 60, 2), 100, "meter")
    assert real.joules == pytest.approx(4 * 59 / 100, abs=real.uncertainty_joules)
    assert real.uncertainty_joules < real.joules / 5


def test_other_programs_spoil_a_counter_too():
    rng = random.Random(5)
    total, busy = 0.0, []
    for i in range(41):
        busy.append(Reading(float(i), total, resolution_joules=1e-4))
        total += 10 if (i // 10) % 2 else 2 + rng.random()
    found = energy(busy, [Reading(r.time, r.joules * 1.05) for r in busy], 100, "RAPL")
    assert "from rest, and chance alone by" in found.reason


def test_a_resolution_that_is_told_counts_before_what_was_seen():
    run = [Reading(0.0, 0.0, resolution_joules=1e-4), Reading(1.0, 5.0, resolution_joules=1e-4)]
    assert energy([], run, 10, "RAPL").joules == pytest.approx(0.5)


@given(
    st.floats(0, 3),
    st.floats(0, 9),
    st.floats(0.001, 30),
    st.integers(5, 100),
    st.integers(1, 1000),
)
def test_never_invented(rest, work, step, seconds, calls):
    """A number is within its uncertainty of the truth, or there is a reason and no number."""
    found = energy(counter(rest, 120, step), counter(rest + work, seconds, step), calls, "meter")
    assert (found.joules is None) == (found.reason is not None)
    if found.joules is not None and found.rest_watts is not None:
        slack = 2 * step / 120 * seconds / calls  # of the power at rest
        truth = work * seconds / calls
        assert abs(found.joules - truth) <= found.uncertainty_joules + slack + 1e-9


def test_a_phones_battery(clock, hot_phone):
    phone = hot_phone(start_c=10.0)
    phone.ambient = -20.0
    meter = battery_meter(phone.state, now=clock.now)
    meter.rest(300, clock.sleep)
    calls = phone.calls
    meter.start()
    run_sustained(phone.block, Plan(minutes=5), clock.now, meter.sample)
    found = meter.stop(phone.calls - calls)
    assert found.joules == pytest.approx(4.0 * phone.cost, rel=0.05)
    assert found.how == "battery, counter"


@pytest.mark.parametrize(
    ("battery", "words"),
    [
        (None, "tells of no battery"),
        (Battery(status="Charging", energy_uwh=1.0), "battery is charging"),
        (Battery(status="Full", energy_uwh=1.0), "battery is full"),
        (Battery(energy_uwh=1.0), "battery is silent"),
        (Battery(status="Discharging", charge_uah=1.0), "neither its charge nor its current"),
        # milliampere and millivolt, which some systems tell, are not taken for micro units
        (Battery(status="Discharging", current_ua=-412.0, voltage_uv=3.9e6), "neither its charge"),
        (Battery(status="Discharging", current_ua=-4e5, voltage_uv=3900.0), "neither its charge"),
    ],
)
def test_a_battery_that_tells_nothing(battery, words):
    meter = battery_meter(lambda: DeviceState(battery=battery))
    meter.rest(1, lambda s: None)
    meter.start()
    meter.sample()
    found = meter.stop(10)
    assert found.joules is None
    assert found.reason.startswith("not available: ")
    assert words in found.reason


def test_charge_counts_times_voltage(clock):
    def state():
        used = clock.now() * 2.0  # 2 W
        return DeviceState(
            battery=Battery(
                status="Discharging", voltage_uv=4e6, charge_uah=3e6 - used / 4 / 3.6e-3
            )
        )

    meter = battery_meter(state, now=clock.now)
    meter.start()
    for _ in range(30):
        clock.sleep(2.0)
        meter.sample()
    assert meter.stop(60).joules == pytest.approx(2.0)


def test_rapl_sums_packages_and_survives_a_wrap(tree, clock):
    files = {}
    for i in (0, 1):
        zone = f"class/powercap/intel-rapl:{i}"
        files |= {f"{zone}/name": f"package-{i}", f"{zone}/energy_uj": "900000"}
        files |= {f"{zone}/max_energy_range_uj": "999999", f"{zone}:0/name": "core"}
    root = tree(files)
    meter = rapl_meter(root, now=clock.now)
    assert meter.available
    meter.start()
    clock.sleep(1.0)
    (root / "class/powercap/intel-rapl:0/energy_uj").write_text("400000")
    (root / "class/powercap/intel-rapl:1/energy_uj").write_text("950000")
    found = meter.stop(1)
    assert found.joules == pytest.approx(0.55)
    (root / "class/powercap/intel-rapl:1/energy_uj").unlink()
    assert "cannot be read any more" in meter.stop(1).reason


def test_rapl_for_root_only_says_so(tree):
    root = tree({"class/powercap/intel-rapl:0/name": "package-0"})
    meter = rapl_meter(root)
    assert not meter.available
    assert "only root" in meter.stop(1).reason


def test_a_machine_without_any_meter_has_both_reasons(tmp_path):
    meter = local_meter(tmp_path, tmp_path)
    meter.start()
    meter.sample()
    found = meter.stop(100)
    assert str(found) == (
        "energy: not available: the system has no counters of energy (RAPL); "
        "the device tells of no battery"
    )


def command(program):
    return [sys.executable, "-c", program]


def test_a_command_of_the_users():
    program = "import json, time; print(json.dumps({'joules': 1e3 * time.time() % 1e9, 'resolution_joules': 1e-3}))"
    meter = command_meter(command(program))
    meter.start()
    time.sleep(0.2)
    found = meter.stop(1)
    assert found.joules > 100  # a kilowatt for 0.2 s and more
    assert "meter" in found.how


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("print('hot')", "printed 'hot', not"),
        ("print('{\"watts\": NaN}')", "not {"),
        ("print('{\"watts\": true}')", "not {"),
        ("print('[1]')", "not {"),
        ("print('{\"resolution_joules\": 1}')", "not {"),
        ("raise SystemExit(3)", "ended with 3"),
        ("pass", "printed 'nothing'"),
    ],
)
def test_a_command_that_prints_something_else(program, words):
    meter = command_meter(command(program))
    meter.start()
    assert words in meter.stop(1).reason


def test_a_command_that_hangs_is_killed_with_its_children():
    program = "import subprocess; subprocess.run(['sleep', '60'])"
    start = time.monotonic()
    meter = command_meter(command(program), deadline=0.5)
    meter.start()
    assert time.monotonic() - start < 10
    assert "took over 0.5 s and was killed" in meter.stop(1).reason


@pytest.mark.parametrize("words", [[], ["/no/such/command"], ["a\0b"]])
def test_a_command_that_does_not_start(words):
    meter = command_meter(words)
    meter.start()
    assert "does not start" in meter.stop(1).reason


def test_no_shell_reads_the_command(tmp_path):
    marker = tmp_path / "made"
    meter = command_meter(["echo", f"; touch {marker}"])
    meter.start()
    assert not meter.available
    assert not marker.exists()


def test_json_of_both_kinds():
    assert Energy.unavailable("x").to_json()["joules"] is None
    assert Energy(0.5, None, None, "how").to_json()["joules"] == 0.5
