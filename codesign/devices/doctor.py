"""Says whether a device can be used over the network, and the command that mends what it lacks."""

from __future__ import annotations

import statistics
import time
from typing import Any

from codesign.devices.client import TrackerClient
from codesign.devices.listing import condition_of, held_by, hottest
from codesign.devices.opencl_runtime import BUILD
from codesign.devices.probing import Unanswered, probe
from codesign.devices.serving import start_command
from codesign.devices.wire import Address
from codesign.doctor import Check
from codesign.errors import UserError
from codesign.versions import TVM, TVM_FFI

STOCK = "not told: stock TVM server"
_SECONDS, _SETTLE_SECONDS = 90.0, 5.0
_SLOW_MS = 20.0
_HOT_C, _BATTERY_HOT_C = 70.0, 40.0
_LOW_PERCENT = 20
_MEMORY, _DISK = 300e6, 500e6
_PINGS = 20
_STEADY = ("performance", "userspace")


def examine_device(
    key: str, tracker: Address, *, machine: str | None = None, seconds: float = _SECONDS
) -> list[Check]:
    """All checks of one device of a key; takes seconds, and never more than about ``seconds``.

    Args:
        key: which device.
        tracker: where to ask for it.
        machine: its processor as ``uname -m`` says it, for servers that do not tell.
        seconds: deadline of the session.
    """
    start = start_command(key, tracker)
    serve = f"on the device: {start}"
    ours = f"only our server tells it (it needs Linux and Python): {start}"
    try:
        with TrackerClient(tracker) as client:
            status = _settled(client, key)
    except UserError as error:
        return [Check("tracker", "fail", error.got, error.next)]
    kind = "TVM's own" if status["stock"] else "codesign's"
    checks = [Check("tracker", "ok", f"{tracker}, {kind}")]
    registered = [s for s in status["servers"] if s["key"] == key]
    servers = [s for s in registered if s["state"] != "gone"]
    if registered and not servers:
        gone = "; ".join(map(condition_of, registered))
        return [*checks, Check("key", "fail", gone, f"start it again; {serve}, or TVM's own")]
    if not servers:
        living = sorted({s["key"] for s in status["servers"] if s["state"] != "gone"})
        found = f"no server of '{key}'; keys there: {', '.join(living) or 'none'}"
        return [*checks, Check("key", "fail", found, serve)]
    checks.append(Check("key", "ok", f"{len(servers)} server(s) of '{key}'"))
    free = _free(key, status, servers)
    checks.append(free)
    if free.status == "fail":
        return checks
    answer = probe(
        tracker,
        key,
        seconds=seconds,
        tell=("info", "state"),
        pings=_PINGS,
        kernel=True,
        machine=machine,
    )
    if isinstance(answer, Unanswered):
        mend = f"restart the server; {serve}"
        return [*checks, Check("session", "fail", f"{answer.kind}: {answer.text}", mend)]
    info, state = answer.get("info"), answer.get("state")
    checks.append(Check("session", "ok", f"opened in {answer['connect_s'] * 1e3:.0f} ms"))
    checks += [
        _identity(info),
        _versions(info),
        _kernel(answer["kernel"], key, tracker),
        _opencl(answer["opencl"], (info or {}).get("opencl_type")),
        _round_trip(answer["round_trips_s"]),
    ]
    if state is None:
        names = ("governor", "temperature", "battery", "memory", "disk")
        return [*checks, *(Check(name, "warn", STOCK, ours) for name in names)]
    return [
        *checks,
        _governor(state),
        _temperature(state),
        _battery(state),
        _memory(state),
        _disk(state),
    ]


def _settled(client: TrackerClient, key: str) -> dict[str, Any]:
    """The tracker's answer, once a server is free, or none is about to offer itself or to end a session."""
    until = time.monotonic() + _SETTLE_SECONDS
    while True:
        status = client.status()
        states = {s["state"] for s in status["servers"] if s["key"] == key}
        free = status["queues"].get(key, {}).get("free")
        if free or not states & {"idle", "starting", "free", "busy"} or time.monotonic() > until:
            return status
        time.sleep(0.1)


def _free(key: str, status: dict[str, Any], servers: list[dict[str, Any]]) -> Check:
    queue = status["queues"].get(key, {"free": 0, "pending": 0})
    if queue["free"]:
        return Check("free", "ok", f"{queue['free']} free, {queue['pending']} waiting")
    told = [f"{s['address']} is {s['state'] or 'not free'} {held_by(s)}".strip() for s in servers]
    if all(s["state"] == "draining" for s in servers):
        return Check("free", "fail", "; ".join(told), f"codesign devices resume {key}")
    ill = [(s["health"] or {}).get("error") for s in servers if s["state"] == "ill"]
    if ill:
        return Check("free", "fail", f"{'; '.join(told)}: {ill[0]}", "see the log of the server")
    return Check("free", "fail", "; ".join(told), "wait for it, or add a device of the same key")


def _identity(info: dict[str, Any] | None) -> Check:
    if info is None:
        return Check("identity", "warn", STOCK, "run codesign's server on the device")
    text = f"{info['serial']} ({info.get('model') or info.get('machine')}), {info['cores']} cores"
    if info["emulated"]:
        return Check("identity", "warn", f"{text}, emulated", "its times say nothing of a device")
    if info["serial"] == "unknown":
        return Check("identity", "warn", text, "start its server with --name")
    return Check("identity", "ok", text)


def _versions(info: dict[str, Any] | None) -> Check:
    if info is None:
        return Check("versions", "warn", STOCK, f"see to it that it is TVM {TVM}")
    found = info["versions"]
    text = f"TVM {found['tvm']}, ffi {found['tvm_ffi']}, Python {found['python']}"
    if (found["tvm"], found["tvm_ffi"]) == (TVM, TVM_FFI):
        return Check("versions", "ok", text)
    mend = f"on the device: pip install apache-tvm=={TVM} apache-tvm-ffi=={TVM_FFI}"
    return Check("versions", "fail", f"{text}; made for {TVM} and {TVM_FFI}", mend)


def _kernel(kernel: dict[str, Any], key: str, tracker: Address) -> Check:
    status, text = kernel["status"], kernel["text"]
    if status == "ok":
        return Check("kernel", "ok", f"built here, runs there, right to {kernel['error']:.0e}")
    if status == "not tried":
        mend = f"codesign doctor --device {key} --tracker {tracker} --machine aarch64"
        return Check("kernel", "warn", text, mend)
    if status == "not built":
        return Check("kernel", "fail", text, "sudo apt install lld")
    if status == "wrong":
        return Check(
            "kernel", "fail", f"wrong numbers: error {kernel['error']:.1g}", "see versions"
        )
    return Check("kernel", "fail", text, "is --machine the device's? see the log of the server")


def _opencl(there: bool | None, kind: str | None) -> Check:
    if there is None:
        return Check("opencl", "warn", "not told", "only the processor is offered")
    if there:
        if kind == "cpu":
            return Check(
                "opencl", "warn", "the runtime finds a device, which is the processor: no GPU",
                "for function only: times of GPU code there say nothing of a GPU",
            )  # fmt: skip
        return Check("opencl", "ok", "the runtime finds a device")
    mend = f"for its GPU, on the device: {BUILD}, then restart its server; the processor needs none"
    return Check("opencl", "warn", "the runtime has none", mend)


def _round_trip(times: list[float]) -> Check:
    median = statistics.median(times) * 1e3
    text = f"median {median:.2f} ms of {len(times)}"
    if median > _SLOW_MS:
        return Check(
            "round trip", "warn", text, "a cable or adb instead of Wi-Fi makes tuning faster"
        )
    return Check("round trip", "ok", text)


def _governor(state: dict[str, Any]) -> Check:
    governors = sorted(set(state["governors"].values()))
    if not governors:
        return Check("governor", "warn", "not told", "measurements take the clock as it comes")
    text = ", ".join(governors)
    if state.get("throttled"):
        return Check("governor", "warn", f"{text}; throttled now", "let the device cool down")
    if all(g in _STEADY for g in governors):
        return Check("governor", "ok", text)
    mend = (
        "on the device: echo performance | sudo tee"
        " /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    )
    return Check("governor", "warn", f"{text}: clocks vary with the load", mend)


def _temperature(state: dict[str, Any]) -> Check:
    zones = state["temperatures_c"]
    if not zones:
        return Check("temperature", "warn", "not told", "throttling shows only in the times")
    text = hottest(state)
    if max(zones.values()) > _HOT_C:
        return Check("temperature", "warn", text, "let it cool down, or give it a fan")
    return Check("temperature", "ok", text)


def _battery(state: dict[str, Any]) -> Check:
    battery = state["battery"]
    if battery is None:
        return Check("battery", "ok", "none")
    percent, status, heat = (battery.get(n) for n in ("percent", "status", "temperature_c"))
    known = [f"{percent} %" if percent is not None else "", status or ""]
    known.append(f"{heat:.0f} °C" if heat is not None else "")
    text = ", ".join(filter(None, known)) or "not told"
    if percent is not None and percent < _LOW_PERCENT:
        return Check("battery", "warn", text, "charge it: many phones slow down when it is low")
    if heat is not None and heat > _BATTERY_HOT_C:
        return Check("battery", "warn", text, "let it cool down, out of its case")
    return Check("battery", "ok", text)


def _memory(state: dict[str, Any]) -> Check:
    return _room("memory", state["memory_free_bytes"], _MEMORY, "end other programs on it")


def _disk(state: dict[str, Any]) -> Check:
    return _room("disk", state["disk_free_bytes"], _DISK, "free some space, or another --work")


def _room(name: str, free: float | None, needed: float, mend: str) -> Check:
    if free is None:
        return Check(name, "warn", "not told", mend)
    text = f"{free / 1e6:.0f} MB free"
    return Check(name, "ok", text) if free >= needed else Check(name, "warn", text, mend)
