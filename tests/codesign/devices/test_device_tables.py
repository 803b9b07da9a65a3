"""Tables of devices: what a person copies out of them is whole on a narrow terminal too."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from codesign.devices.listing import devices_table, queue_table


def _server(**change: Any) -> dict[str, Any]:
    health = {
        "serial": "10000000abcdef01", "emulated": False, "session": None,
        "device": {"temperatures_c": {"cpu-thermal": 51.2}, "load": 0.25},
        "versions": {"tvm": "0.27.0.post1", "tvm_ffi": "0.1.14.post1"},
    }  # fmt: skip
    return {
        "key": "pixel8", "address": "192.168.100.121:50051", "state": "free", "holder": None,
        "last_seen_s": 2.0, "health": health,
    } | change  # fmt: skip


def _printed(table: Any, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


@pytest.mark.parametrize("width", [80, 200])
def test_keys_and_addresses_are_whole(width: int) -> None:
    status = {"servers": [_server()], "stock": False}
    text = _printed(devices_table(status, width), width)
    assert max(map(len, text.splitlines())) <= width
    for told in ("pixel8", "192.168.100.121:50051", "free", "seen", "51 °C", "0.27.0.post1"):
        assert told in text, told


@pytest.mark.parametrize("width", [80, 200])
def test_what_is_emulated_says_so(width: int) -> None:
    server = _server()
    server["health"] |= {"emulated": True}
    server["state"] = "gone"
    text = _printed(devices_table({"servers": [server], "stock": False}, width), width)
    assert "│ emulated" in text
    assert "gone" in text


def test_a_server_that_tells_nothing() -> None:
    server = _server(health=None, state=None, last_seen_s=None)
    table = devices_table({"servers": [server], "stock": True}, 80)
    assert list(table.columns[4].cells) == ["-"]
    assert "not all is told" in str(table.title)


def test_nothing_is_said_to_be_nothing() -> None:
    empty: dict[str, Any] = {"servers": [], "queues": {}, "stock": False}
    for table in (devices_table(empty), devices_table(empty, 80), queue_table(empty)):
        assert "none has registered" in _printed(table, 80)
