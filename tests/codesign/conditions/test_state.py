"""States read from JSON and from a made-up /proc and /sys."""

from __future__ import annotations

import json

import pytest

from codesign.conditions import sysfs
from codesign.conditions.state import Battery, DeviceState, read_local_state
from codesign.errors import UserError

FULL = {
    "temperatures_c": {"cpu": 41.5, "skin": 33},
    "clocks_khz": {"cpu0": 1_800_000},
    "max_clocks_khz": {"cpu0": 2_000_000},
    "governors": {"cpu0": "schedutil"},
    "load": 0.25,
    "memory_free_bytes": 1 << 30,
    "disk_free_bytes": 2 << 30,
    "battery": {
        "percent": 81, "status": "Discharging", "current_ua": -412000, "voltage_uv": 3900000,
        "charge_uah": 3100000, "energy_uwh": None, "temperature_c": 29.5,
    },
    "throttled": False,
    "time": 1700000000.5,
}  # fmt: skip

PHONE = {
    "sys/class/thermal/thermal_zone0/type": "cpu-0-0\n",
    "sys/class/thermal/thermal_zone0/temp": "41500\n",
    "sys/class/thermal/thermal_zone1/type": "vbat\n",
    "sys/class/thermal/thermal_zone1/temp": "3900000\n",
    "sys/class/thermal/thermal_zone3/type": "soc\n",
    "sys/class/thermal/thermal_zone3/temp": "97\n",
    "sys/class/thermal/thermal_zone4/type": "skin\n",
    "sys/class/thermal/thermal_zone4/temp": "34\n",
    "sys/class/thermal/thermal_zone2/type": "cpu-0-0\n",
    "sys/class/thermal/thermal_zone2/temp": "39000\n",
    "sys/class/thermal/thermal_zone10/type": "modem\n",
    "sys/class/thermal/thermal_zone10/temp": "no answer\n",
    "sys/class/thermal/cooling_device0/type": "thermal-cpufreq-0\n",
    "sys/class/thermal/cooling_device0/cur_state": "2\n",
    "sys/class/thermal/cooling_device1/type": "fan\n",
    "sys/class/thermal/cooling_device1/cur_state": "1\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "2000000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu10/cpufreq/scaling_cur_freq": "900000\n",
    "sys/devices/system/cpu/cpufreq/boost": "1\n",
    "sys/devices/system/cpu/cpu0/cpu_capacity": "1024\n",
    "sys/class/power_supply/mouse/type": "Battery\n",
    "sys/class/power_supply/mouse/scope": "Device\n",
    "sys/class/power_supply/usb/type": "USB\n",
    "sys/class/power_supply/main/type": "Battery\n",
    "sys/class/power_supply/main/capacity": "81\n",
    "sys/class/power_supply/main/status": "Discharging\n",
    "sys/class/power_supply/main/current_now": "-412000\n",
    "sys/class/power_supply/main/voltage_now": "3900000\n",
    "sys/class/power_supply/main/charge_counter": "3100000\n",
    "sys/class/power_supply/main/temp": "295\n",
    "proc/meminfo": "MemTotal:  8000000 kB\nMemAvailable:  1000000 kB\n",
    "proc/stat": "cpu  100 0 50 800 20 1 2 3 0 0\ncpu0 100 0 50 800 20 1 2 3 0 0\n",
}


def test_json_comes_back_whole():
    state = DeviceState.from_json(FULL)
    assert state.temperatures_c == {"cpu": 41.5, "skin": 33.0}
    assert state.battery == Battery(81, "Discharging", -412000, 3900000, 3100000, None, 29.5)
    assert DeviceState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_what_is_absent_or_null_is_not_told():
    nothing = DeviceState.from_json({})
    assert nothing == DeviceState()
    assert nothing.hottest is None
    assert nothing.clock_shares() == {}
    nulls = dict.fromkeys(FULL) | {"temperatures_c": {"cpu": None}}
    assert DeviceState.from_json(nulls) == nothing
    assert DeviceState.from_json({"battery": {}}).battery == Battery()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temprature": 1}, "unknown key 'temprature'"),
        ({"temperatures_c": {"cpu": "hot"}}, "temperatures_c.cpu"),
        ({"temperatures_c": [1]}, "temperatures_c"),
        ({"load": True}, "load"),
        ({"load": float("nan")}, "load"),
        ({"throttled": 0}, "throttled"),
        ({"memory_free_bytes": 1.5}, "memory_free_bytes"),
        ({"battery": {"percent": "80"}}, "battery.percent"),
        ({"battery": 80}, "battery"),
    ],
)
def test_anything_else_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        DeviceState.from_json(FULL | change)
    with pytest.raises(UserError):
        DeviceState.from_json([FULL])


def test_a_clock_counts_only_where_idle_processors_keep_it():
    asleep = DeviceState({}, {"cpu0": 3e5}, {"cpu0": 2e6}, {"cpu0": "schedutil"})
    assert asleep.clock_shares() == {}
    held = DeviceState({}, {"cpu0": 1e6, "cpu1": 1e6}, {"cpu0": 2e6}, {"cpu0": "performance"})
    assert held.clock_shares() == {"cpu0": 0.5}


def test_a_phones_files(tree):
    root = tree(PHONE)
    state = read_local_state(root / "sys", root / "proc", load_seconds=0)
    assert state.temperatures_c == {
        "cpu-0-0": 41.5,
        "cpu-0-0 2": 39.0,
        "skin": 34.0,
    }  # no volts, no percent
    assert dict(state.clocks_khz) == {"0": 1_800_000, "10": 900_000}
    assert dict(state.max_clocks_khz) == {"0": 2_000_000}
    assert state.governors == {"0": "performance"}
    assert state.memory_free_bytes == 1_024_000_000
    assert state.battery == Battery(81, "Discharging", -412000, 3900000, 3100000, None, 29.5)
    assert state.throttled is True
    assert state.load is None
    assert sysfs.capacities(root / "sys") == {"0": 1024}


def test_load_is_what_became_busy_meanwhile(tree):
    root = tree({"proc/stat": "cpu  100 0 50 800 20 1 2 3 0 0\n"})

    def sleep(seconds):
        (root / "proc/stat").write_text("cpu  130 0 60 900 20 1 2 3 7 0\n")

    told = sysfs.read_state(root / "sys", root / "proc", load_seconds=0.5, sleep=sleep)
    assert told["load"] == pytest.approx(0.8, rel=0.05)  # 40 ticks of 10 ms in 0.5 s


@pytest.mark.parametrize("stat", ["", "cpu 1 2\n", "cpu a b c d e f g h\n", "intr 5\n"])
def test_an_odd_stat_tells_no_load(tree, stat):
    root = tree({"proc/stat": stat})
    told = sysfs.read_state(root / "sys", root / "proc", load_seconds=0.01, sleep=lambda s: None)
    assert told["load"] is None


@pytest.mark.parametrize(
    ("word", "throttled"), [("0x0", False), ("50000", False), ("50005", True), ("what", None)]
)
def test_a_raspberry_says_it_in_bits(tree, word, throttled):
    root = tree({"sys/devices/platform/soc/soc:firmware/get_throttled": word})
    told = sysfs.read_state(root / "sys", root / "proc", load_seconds=0)
    assert told["throttled"] is throttled


def test_a_machine_that_tells_nothing(tmp_path):
    told = sysfs.read_state(tmp_path / "s", tmp_path / "p", tmp_path / "d", load_seconds=0)
    assert not any(told[key] for key in told if key != "time")
    assert DeviceState.from_json(told).battery is None


def test_hardware_monitors_of_a_desktop(tree):
    root = tree(
        {
            "sys/class/hwmon/hwmon0/name": "k10temp",
            "sys/class/hwmon/hwmon0/temp1_input": "52125",
            "sys/class/hwmon/hwmon0/temp1_label": "Tctl",
            "sys/class/hwmon/hwmon1/name": "nvme",
            "sys/class/hwmon/hwmon1/temp1_input": "38850",
        }
    )
    state = read_local_state(root / "sys", root / "proc", load_seconds=0)
    assert state.temperatures_c == {"k10temp Tctl": 52.125, "nvme": 38.85}
    assert state.hottest == ("k10temp Tctl", 52.125)


def test_this_machine_can_be_read():
    state = read_local_state(load_seconds=0.05)
    assert state.memory_free_bytes > 0
    assert state.load >= 0
    assert state.time > 1.6e9


@pytest.mark.parametrize(("cap", "throttled"), [("2000000", False), ("1500000", True)])
def test_a_capped_clock_is_throttling(tree, cap, throttled):
    folder = "sys/devices/system/cpu/cpu0/cpufreq"
    root = tree({f"{folder}/scaling_max_freq": cap, f"{folder}/cpuinfo_max_freq": "2000000"})
    told = sysfs.read_state(root / "sys", root / "proc", load_seconds=0)
    assert told["throttled"] is throttled
