"""What a device tells of itself, from files that stand for /proc and /sys."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from codesign.devices import facts


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


PHONE = {
    "proc/meminfo": "MemTotal:  8000000 kB\nMemFree: 1000 kB\nMemAvailable: 2000000 kB\n",
    "proc/loadavg": "1.25 1.0 0.5 1/234 5678\n",
    "proc/stat": "cpu  100 0 100 800 0 0 0 0 0 0\n",
    "proc/device-tree/model": "Raspberry Pi 5 Model B\0",
    "proc/device-tree/serial-number": "10000000abcdef\0",
    "sys/class/thermal/thermal_zone0/temp": "45200\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "38\n",
    "sys/class/thermal/thermal_zone1/type": "battery\n",
    "sys/class/thermal/thermal_zone2/temp": "-274000\n",
    "sys/class/thermal/thermal_zone2/type": "off\n",
    "sys/class/thermal/thermal_zone3/temp": "47000\n",
    "sys/class/thermal/thermal_zone3/type": "cpu-thermal\n",
    "sys/class/thermal/cooling_device0/type": "thermal-cpufreq-0\n",
    "sys/class/thermal/cooling_device0/cur_state": "0\n",
    "sys/class/power_supply/usb/type": "USB\n",
    "sys/class/power_supply/battery/type": "Battery\n",
    "sys/class/power_supply/battery/capacity": "81\n",
    "sys/class/power_supply/battery/status": "Discharging\n",
    "sys/class/power_supply/battery/current_now": "-350000\n",
    "sys/class/power_supply/battery/temp": "312\n",
} | {
    f"sys/devices/system/cpu/cpu{cpu}/{name}": text
    for cpu, top in ((0, 1800000), (1, 1800000), (10, 2400000))
    for name, text in {
        "cpufreq/cpuinfo_max_freq": f"{top}\n",
        "cpufreq/scaling_max_freq": f"{top}\n",
        "cpufreq/scaling_cur_freq": "600000\n",
        "cpufreq/scaling_governor": "schedutil\n",
        "cache/index0/level": "1\n",
        "cache/index0/type": "Data\n",
        "cache/index0/size": "64K\n",
        "cache/index0/shared_cpu_list": f"{cpu}\n",
    }.items()
}  # fmt: skip


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    return _write(tmp_path, PHONE)


def test_state_of_a_phone(phone: Path) -> None:
    state = facts.state(phone, disk=phone)
    assert state["temperatures_c"] == {"cpu-thermal": 45.2, "battery": 38.0, "cpu-thermal 2": 47.0}
    assert state["clocks_khz"] == dict.fromkeys(("0", "1", "10"), 600000)
    assert state["max_clocks_khz"] == {"0": 1800000, "1": 1800000, "10": 2400000}
    assert set(state["governors"].values()) == {"schedutil"}
    assert state["memory_free_bytes"] == 2000000 * 1024
    assert state["disk_free_bytes"] > 0
    assert state["throttled"] is False
    assert state["battery"] == {
        "percent": 81, "status": "Discharging", "current_ua": -350000, "voltage_uv": None,
        "charge_uah": None, "energy_uwh": None, "temperature_c": 31.2,
    }  # fmt: skip
    assert facts.state(phone, measure=False)["load"] == 1.25
    json.dumps(state)


def test_facts_of_a_phone(phone: Path) -> None:
    auxv = struct.pack("=QQQQQQ", 16, 0x1234, 26, 0x55, 0, 0)
    (phone / "proc/self").mkdir()
    (phone / "proc/self/auxv").write_bytes(auxv)
    told = facts.facts(phone)
    assert (told["hwcap"], told["hwcap2"]) == (0x1234, 0x55)
    assert told["cpus"][-1] == {
        "cpu": 10, "max_khz": 2400000,
        "caches": [{"level": 1, "type": "Data", "size": "64K", "shared_cpu_list": "10"}],
    }  # fmt: skip
    assert told["model"] == "Raspberry Pi 5 Model B"
    assert told["system"] == "linux"
    assert told["machine"] == os.uname().machine


def test_nothing_is_invented_where_the_system_is_silent(tmp_path: Path) -> None:
    state = facts.state(tmp_path, disk=tmp_path / "none")
    assert {k: v for k, v in state.items() if k != "time"} == {
        "temperatures_c": {}, "clocks_khz": {}, "max_clocks_khz": {}, "governors": {}, "load": None,
        "memory_free_bytes": None, "disk_free_bytes": None, "battery": None, "throttled": None,
    }  # fmt: skip
    assert facts.serial("", tmp_path) == "unknown"
    assert facts.model(tmp_path) == ""


def test_the_serial_is_the_boards_or_a_digest_of_the_machine_id(phone: Path) -> None:
    assert facts.serial("mine", phone) == "mine"
    assert facts.serial("", phone) == "10000000abcdef"
    (phone / "proc/device-tree/serial-number").unlink()
    _write(phone, {"etc/machine-id": "0123456789abcdef0123456789abcdef\n"})
    digest = facts.serial("", phone)
    assert digest.startswith("m-")
    assert "0123456789" not in digest
    assert digest == facts.serial("", phone)


def test_emulation_is_told_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODESIGN_EMULATED", "1")
    assert facts.is_emulated(tmp_path)
    monkeypatch.setenv("CODESIGN_EMULATED", "0")
    assert not facts.is_emulated(tmp_path)


def test_an_emulator_shows_behind_the_programs_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CODESIGN_EMULATED", raising=False)
    (tmp_path / "proc/thread-self").mkdir(parents=True)
    (tmp_path / "proc/thread-self/exe").symlink_to("/usr/bin/qemu-aarch64-static")
    assert facts.is_emulated(tmp_path)


def test_the_hosts_cpuinfo_is_not_told_as_an_arm_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CODESIGN_EMULATED", raising=False)
    names = os.uname()
    monkeypatch.setattr(os, "uname", lambda: type(names)((*names[:4], "aarch64")))
    _write(tmp_path, {"proc/cpuinfo": "processor : 0\nvendor_id : GenuineIntel\n"})
    assert facts.is_emulated(tmp_path)
    assert facts.facts(tmp_path)["cpuinfo"] == ""
    _write(tmp_path, {"proc/cpuinfo": "processor : 0\nCPU implementer : 0x41\n"})
    assert not facts.is_emulated(tmp_path)
    assert "0x41" in facts.facts(tmp_path)["cpuinfo"]
