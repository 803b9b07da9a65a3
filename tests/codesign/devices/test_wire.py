"""The protocol: any split of the bytes, and bytes that are no protocol."""

from __future__ import annotations

import json
import socket
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.devices import wire
from codesign.devices.wire import Address, WireError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@given(values=st.lists(JSON, max_size=5), cut=st.integers(1, 7))
def test_messages_arrive_whole_however_they_are_cut(values: list[object], cut: int) -> None:
    stream = b"".join(map(wire.frame, values))
    buffer, found = bytearray(), []
    for start in range(0, len(stream), cut):
        buffer += stream[start : start + cut]
        while (message := wire.take_frame(buffer)) is not None:
            found.append(message[0])
    assert found == values
    assert not buffer


@pytest.mark.parametrize("size", [-1, 0, wire.MESSAGE_LIMIT + 1, 2**31 - 1])
def test_a_length_out_of_range_is_refused_before_anything_is_read(size: int) -> None:
    with pytest.raises(WireError, match="at most"):
        wire.take_frame(bytearray(struct.pack("<i", size)))


@given(data=st.binary(min_size=1, max_size=64))
def test_garbage_is_an_error_of_the_protocol_or_json(data: bytes) -> None:
    buffer = bytearray(struct.pack("<i", len(data)) + data)
    try:
        json.loads(data)
    except ValueError:
        with pytest.raises(WireError):
            wire.take_frame(buffer)
    else:
        assert wire.take_frame(buffer) is not None


def test_deeply_nested_json_does_not_end_the_process() -> None:
    data = b"[" * 200_000
    with pytest.raises(WireError):
        wire.take_frame(bytearray(struct.pack("<i", len(data)) + data))


@given(key=st.text(min_size=1, max_size=40).filter(lambda k: len(k.encode()) <= 100))
def test_a_handshake_is_read_in_any_pieces(key: str) -> None:
    text = f"client:{key}".encode()
    stream = wire.magic(wire.RPC_MAGIC) + struct.pack("<i", len(text)) + text
    for end in range(len(stream)):
        assert wire.take_handshake(bytearray(stream[:end])) is None
    assert wire.take_handshake(bytearray(stream)) == f"client:{key}"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        wire.magic(wire.TRACKER_MAGIC),
        wire.magic(wire.RPC_MAGIC) + struct.pack("<i", -5),
        wire.magic(wire.RPC_MAGIC) + struct.pack("<i", 2**31 - 1),
        wire.magic(wire.RPC_MAGIC) + struct.pack("<i", 2) + b"\xff\xfe",
    ],
)
def test_a_handshake_that_is_none_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(WireError):
        wire.take_handshake(bytearray(data))


def test_a_clients_key_carries_its_time_out() -> None:
    assert wire.parse_key("client:pi:0.25 -timeout=2.5") == ("pi:0.25", 2.5)
    assert wire.parse_key("client:pi") == ("pi", None)
    for wrong in ("server:pi", "", "client:pi -timeout=x", "client:pi -timeout=nan"):
        with pytest.raises(WireError):
            wire.parse_key(wrong)
    for wrong in ("inf", "-1", "0"):
        with pytest.raises(WireError):
            wire.parse_key(f"client:pi -timeout={wrong}")


def test_addresses_are_read_and_written() -> None:
    assert wire.parse_address("10.0.0.1:90") == Address("10.0.0.1", 90)
    assert wire.parse_address("[::1]:90") == Address("::1", 90)
    assert wire.parse_address("board", 9190) == Address("board", 9190)
    assert str(wire.parse_address("[::1]:90")) == "[::1]:90"
    for wrong in ("", "host", ":90", "host:", "host:x", "host:65536", "host:-1"):
        with pytest.raises(ValueError):
            wire.parse_address(wrong)


def test_reading_ends_at_its_deadline_and_at_the_end_of_the_connection() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(wire.frame([1, "a"])[:5])
        before = time.monotonic()
        with pytest.raises(TimeoutError):
            wire.read_frame(near, time.monotonic() + 0.2)
        assert time.monotonic() - before < 2
        far.sendall(struct.pack("<i", 2**30))
        with pytest.raises(WireError, match="at most"):
            wire.read_frame(near, time.monotonic() + 1)
        far.close()
        with pytest.raises(WireError, match="closed"):
            wire.read_exactly(near, 1, time.monotonic() + 1)


def test_match_keys_differ_and_keep_tvms_form() -> None:
    keys = {wire.new_match_key("pi") for _ in range(100)}
    assert len(keys) == 100
    assert all(key.rsplit(":", 1)[0] == "pi" for key in keys)
