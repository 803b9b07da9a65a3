"""Tables of devices and queues, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

_NONE = "none has registered"
COLOURS = {"free": "green", "busy": "yellow", "draining": "yellow", "gone": "red", "ill": "red"}
NOT_TOLD = "-"
_NARROW = 130


def devices_table(status: dict[str, Any], width: int = 200) -> Table:
    """One row for each server that the tracker knows.

    Args:
        width: characters of a line; where they are few, a cell tells several things.
    """
    servers = sorted(status["servers"], key=lambda s: (s["key"], s["address"]))
    stock = " (TVM's own tracker: not all is told)" if status["stock"] else ""
    table = Table(title=f"devices{stock}", caption=None if servers else _NONE)
    if width < _NARROW:
        return _narrow(table, servers)
    headings = "key address serial state seen temperature load tvm/ffi emulated".split()
    for heading in headings:
        table.add_column(heading)
    for server in servers:
        health = server["health"] or {}
        device, versions = health.get("device") or {}, health.get("versions") or {}
        state = str(server["state"] or NOT_TOLD)
        table.add_row(
            server["key"],
            server["address"],
            str(health.get("serial") or NOT_TOLD),
            Text(_state_text(server, health), style=COLOURS.get(state, "")),
            _ago(server["last_seen_s"]),
            hottest(device),
            _number(device.get("load")),
            f"{versions.get('tvm') or NOT_TOLD} / {versions.get('tvm_ffi') or NOT_TOLD}",
            _yes(health.get("emulated")),
        )
    return table


def _narrow(table: Table, servers: Sequence[dict[str, Any]]) -> Table:
    for heading in ("key", "address", "device", "state", "health"):
        # drain and forget take keys and addresses: they are there to be copied
        table.add_column(heading, no_wrap=heading == "address", overflow="fold")
    for server in servers:
        health = server["health"] or {}
        device, versions = health.get("device") or {}, health.get("versions") or {}
        serial = str(health.get("serial") or NOT_TOLD)
        state = str(server["state"] or NOT_TOLD)
        told = [hottest(device) if device.get("temperatures_c") else ""]
        told += [f"load {device['load']:.1f}" if device.get("load") is not None else ""]
        told += [f"TVM {versions['tvm']}" if versions.get("tvm") else ""]
        told += [f"ffi {versions['tvm_ffi']}" if versions.get("tvm_ffi") else ""]
        text = f"{_state_text(server, health)}\nseen {_ago(server['last_seen_s'])}"
        table.add_row(
            server["key"],
            server["address"],
            f"{serial}\nemulated" if health.get("emulated") else serial,
            Text(text, style=COLOURS.get(state, "")),
            "\n".join(filter(None, told)) or NOT_TOLD,
        )
    return table


def queue_table(status: dict[str, Any]) -> Table:
    """One row for each key: devices in all, free ones, and who waits."""
    table = Table(title="queue", caption=None if status["queues"] else _NONE)
    for heading in ("key", "devices", "free", "waiting", "who waits"):
        table.add_column(heading)
    for key, queue in sorted(status["queues"].items()):
        alive = [s for s in status["servers"] if s["key"] == key and s["state"] != "gone"]
        waiting = queue["waiting"]
        who = ", ".join(f"{w['peer']} for {w['seconds']:.0f} s" for w in waiting or [])
        table.add_row(
            key,
            str(len(alive)),
            str(queue["free"]),
            str(queue["pending"]),
            who if waiting is not None else "not told",
        )
    return table


def hottest(device: dict[str, Any]) -> str:
    """The highest temperature of a device and its zone."""
    zones = device.get("temperatures_c") or {}
    if not zones:
        return NOT_TOLD
    zone = max(zones, key=lambda z: zones[z])
    return f"{zones[zone]:.0f} °C ({zone})"


def held_by(server: dict[str, Any]) -> str:
    """Who has a busy device, and for how long; "" if nobody has."""
    session = (server["health"] or {}).get("session")
    holder = server["holder"]
    if session:
        return f"{session['peer']}, for {session['seconds']:.0f} of {session['at_most']:.0f} s"
    return f"{holder['peer']}, for {holder['seconds']:.0f} s" if holder else ""


def condition_of(server: dict[str, Any]) -> str:
    """How a server is, in words: ``192.168.1.21:9090 is gone, last seen 65 s ago``."""
    state, seen = server["state"], server["last_seen_s"]
    if state != "gone" and server["draining"]:
        return f"{server['address']} is drained: codesign devices resume {server['key']}"
    if state == "gone" and seen is not None:
        return f"{server['address']} is gone, last seen {_ago(seen)}"
    if state == "ill":
        return (
            f"{server['address']} is ill: {(server['health'] or {}).get('error') or 'see its log'}"
        )
    who = f", held by {held_by(server)}" if state == "busy" and held_by(server) else ""
    return f"{server['address']} is {state or 'there'}{who}"


def _state_text(server: dict[str, Any], health: dict[str, Any]) -> str:
    state = str(server["state"] or NOT_TOLD)
    if state in ("busy", "draining") and (who := held_by(server)):
        return f"{state}: {who}"
    if state == "ill" and health.get("error"):
        return f"{state}: {str(health['error'])[:80]}"
    return state


def _yes(told: bool | None) -> str:
    return NOT_TOLD if told is None else "emulated" if told else "no"


def _ago(seconds: float | None) -> str:
    return NOT_TOLD if seconds is None else f"{seconds:.0f} s ago"


def _number(value: float | None) -> str:
    return NOT_TOLD if value is None else f"{value:.1f}"
