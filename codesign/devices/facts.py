"""What a Linux or Android device tells of itself: read from /proc and /sys, never guessed.

Only the standard library, so that it runs on a bare board. A value that the system does not tell is None
or absent. Formats: proc(5), Documentation/ABI/testing/sysfs-devices-system-cpu, sysfs-class-thermal and
sysfs-class-power of the Linux kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from codesign.conditions import sysfs

_AT_HWCAP, _AT_HWCAP2 = 16, 26
_TEXT_LIMIT = 1 << 18
_BUSY_SECONDS = 0.05


def facts(root: Path = Path("/")) -> dict[str, Any]:
    """What identifies the processor: the text of cpuinfo, capability bits, clocks and caches of each core.

    ``libc`` is that of this Python, so of the code that a session can load: a Debian in a phone's Termux runs
    on Android and loads code for glibc. Clocks and caches that an emulator shows are its host's and left out.
    """
    hwcap, hwcap2 = hardware_capabilities(root)
    own = not is_emulated(root)
    return {
        "cpuinfo": "" if _cpuinfo_is_foreign(root) else read_text(root / "proc/cpuinfo") or "",
        "machine": os.uname().machine,
        "hwcap": hwcap,
        "hwcap2": hwcap2,
        "cpus": [_cpu(root, cpu) if own else _no_more_than(cpu) for cpu in processors(root)],
        "system": "android" if is_android(root) else "linux",
        "libc": libc(),
        "model": model(root),
    }


def state(root: Path = Path("/"), disk: Path = Path("."), measure: bool = True) -> dict[str, Any]:
    """What changes: temperatures, clocks, load, memory, battery.

    Args:
        root: where /proc and /sys are.
        disk: whose file system is asked for its free bytes.
        measure: look 50 ms long how many processors are busy; False: the one-minute load average.
    """
    found = sysfs.read_state(
        root / "sys", root / "proc", disk, load_seconds=_BUSY_SECONDS if measure else 0.0
    )
    return found if measure else found | {"load": _load_average(root)}


def info(key: str, name: str, emulated: bool, disk: Path, root: Path = Path("/")) -> dict[str, Any]:
    """Who this device is and what runs on it; whether OpenCL is there only a session can tell."""
    return {
        "serial": serial(name, root),
        "key": key,
        "name": name,
        "emulated": emulated,
        "versions": {
            "tvm": _version("apache-tvm"),
            "tvm_ffi": _version("apache-tvm-ffi"),
            "python": platform.python_version(),
            "codesign": _version("codesign"),
        },
        "cores": len(processors(root)) or os.cpu_count(),
        "memory_bytes": _meminfo(root).get("MemTotal"),
        "disk_free_bytes": disk_free(disk),
        "machine": os.uname().machine,
        "model": model(root),
        "pid": os.getpid(),
    }


def is_emulated(root: Path = Path("/")) -> bool:
    """Whether this process runs under qemu-user, or CODESIGN_EMULATED says that the device is none.

    Under qemu-user /proc/self/exe shows the guest's program, /proc/thread-self/exe the emulator; and
    before its version 8 the guest reads the host's cpuinfo, which names another architecture.
    """
    if os.environ.get("CODESIGN_EMULATED", "") not in ("", "0"):
        return True
    with contextlib.suppress(OSError):
        if os.path.basename(os.readlink(root / "proc/thread-self/exe")).startswith("qemu-"):
            return True
    return _cpuinfo_is_foreign(root)


def _cpuinfo_is_foreign(root: Path) -> bool:
    """Whether cpuinfo describes an x86 processor to an ARM program: the emulator's host."""
    arm = os.uname().machine in ("aarch64", "armv7l", "armv8l")
    return arm and "vendor_id" in (read_text(root / "proc/cpuinfo") or "")


def serial(name: str = "", root: Path = Path("/")) -> str:
    """A stable name of this device: the given one, the board's serial number, or a digest of machine-id.

    Never an address of its network. "unknown" if the system tells none of them.
    """
    if name:
        return name
    for path in ("sys/firmware/devicetree/base/serial-number", "proc/device-tree/serial-number"):
        if text := read_text(root / path):
            return text
    found = re.search(r"^Serial\s*:\s*(\w+)", read_text(root / "proc/cpuinfo") or "", re.M)
    if found and found[1].strip("0"):
        return found[1]
    if is_android(root) and (text := _property("ro.serialno") or _property("ro.boot.serialno")):
        return text
    for path in ("etc/machine-id", "var/lib/dbus/machine-id"):
        if text := read_text(
            root / path
        ):  # it should not leave the machine as it is: machine-id(5)
            return "m-" + hashlib.sha256(f"codesign device {text}".encode()).hexdigest()[:12]
    return "unknown"


def model(root: Path = Path("/")) -> str:
    """What the device calls itself; "" if it does not."""
    if is_android(root):
        words = [_property("ro.product.manufacturer"), _property("ro.product.model")]
        return " ".join(filter(None, words))
    for path in ("proc/device-tree/model", "sys/firmware/devicetree/base/model"):
        if text := read_text(root / path):
            return text
    names = ("sys_vendor", "product_name")
    return " ".join(filter(None, (read_text(root / "sys/class/dmi/id" / n) for n in names)))


def is_android(root: Path = Path("/")) -> bool:
    return (root / "system/build.prop").exists() or hasattr(sys, "getandroidapilevel")


def libc() -> str:
    """``bionic``, ``glibc``, or "" for another."""
    if hasattr(sys, "getandroidapilevel"):
        return "bionic"
    return "glibc" if platform.libc_ver()[0] == "glibc" else ""


def hardware_capabilities(root: Path = Path("/")) -> tuple[int, int]:
    """AT_HWCAP and AT_HWCAP2 that the kernel gave this process; 0 if neither way tells."""
    try:
        data = (root / "proc/self/auxv").read_bytes()
    except OSError:
        data = b""
    word = struct.calcsize("P")
    pairs = struct.iter_unpack(
        "=QQ" if word == 8 else "=II", data[: len(data) // (2 * word) * 2 * word]
    )
    values: dict[int, int] = dict(pairs)
    if _AT_HWCAP not in values:
        with contextlib.suppress(OSError, AttributeError):
            ask = ctypes.CDLL(None).getauxval
            ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
            values |= {kind: int(ask(kind)) for kind in (_AT_HWCAP, _AT_HWCAP2)}
    return values.get(_AT_HWCAP, 0), values.get(_AT_HWCAP2, 0)


def processors(root: Path = Path("/")) -> list[int]:
    """Numbers of the processors that are there, whether this process may use them or not."""
    try:
        names = os.listdir(root / "sys/devices/system/cpu")
    except OSError:
        return []
    return sorted(int(n[3:]) for n in names if re.fullmatch(r"cpu\d+", n))


def disk_free(folder: Path) -> int | None:
    """Free bytes of the file system of a folder."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def read_text(path: Path) -> str | None:
    """A small system file without its end of line or NULs; None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_TEXT_LIMIT).decode(errors="replace").strip("\0\n\r\t ")
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = read_text(path)
    try:
        return int(text) if text else None
    except ValueError:
        return None


def _entries(folder: Path, prefix: str) -> list[Path]:
    try:
        names = [n for n in os.listdir(folder) if n.startswith(prefix)]
    except OSError:
        return []
    return [folder / n for n in sorted(names, key=lambda n: (len(n), n))]


def _freq(root: Path, cpu: int) -> Path:
    return root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq"


def _cpu(root: Path, cpu: int) -> dict[str, Any]:
    caches = []
    for index in _entries(root / f"sys/devices/system/cpu/cpu{cpu}/cache", "index"):
        level, kind, size = (read_text(index / n) for n in ("level", "type", "size"))
        if level and level.isdigit() and kind and size:
            shared = read_text(index / "shared_cpu_list")
            cache = {"level": int(level), "type": kind, "size": size}
            caches.append(cache | ({"shared_cpu_list": shared} if shared else {}))
    return {
        "cpu": cpu,
        "max_khz": _number(_freq(root, cpu) / "cpuinfo_max_freq"),
        "caches": caches,
    }


def _no_more_than(cpu: int) -> dict[str, Any]:
    """A processor of which only its number is its own."""
    return {"cpu": cpu, "max_khz": None, "caches": []}


def _meminfo(root: Path) -> dict[str, int]:
    found = re.findall(r"^(\w+):\s+(\d+) kB", read_text(root / "proc/meminfo") or "", re.M)
    return {name: int(kib) * 1024 for name, kib in found}


def _load_average(root: Path) -> float | None:
    words = (read_text(root / "proc/loadavg") or "").split()
    return float(words[0]) if words else None


def _property(name: str) -> str | None:
    """A property of Android."""
    try:
        done = subprocess.run(["getprop", name], capture_output=True, timeout=2, text=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
