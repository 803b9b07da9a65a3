"""TVM's RPC protocol as constants and small functions; every read has a limit and a deadline.

The tracker: both sides send `TRACKER_MAGIC`; then messages of a 32-bit length and so much JSON, each
asked by the client and answered by the tracker. A session: the client sends `RPC_MAGIC`, a 32-bit length
and the key ``client:<match key> -timeout=<seconds>``; the server answers a code, a length and its own key.
All numbers are little-endian. Source: tvm/rpc/base.py, server.py and tracker.py of TVM 0.27.
"""

from __future__ import annotations

import json
import secrets
import socket
import struct
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

RPC_MAGIC = 0xFF271
RPC_MISMATCH = RPC_MAGIC + 2
TRACKER_MAGIC = 0x2F271
TRACKER_PORT = 9190
SERVER_PORT = 9090

MESSAGE_LIMIT = 1 << 20
"""Longest message of the tracker's protocol, bytes (the same as in TVM's tracker)."""
KEY_LIMIT = 1024
"""Longest key of a handshake, bytes."""


class Code(IntEnum):
    """What a message asks of the tracker; TVM's tracker closes the connection on those from 100 on."""

    FAIL = -1
    SUCCESS = 0
    PING = 1
    STOP = 2
    PUT = 3
    REQUEST = 4
    UPDATE_INFO = 5
    SUMMARY = 6
    GET_PENDING_MATCHKEYS = 7
    DRAIN = 100
    RESUME = 101
    FORGET = 102
    STATUS = 103


class WireError(Exception):
    """The other side does not speak the protocol, or sent more than is allowed."""


@dataclass(frozen=True)
class Address:
    """Where something listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str, port: int | None = None) -> Address:
    """``HOST:PORT``, ``[V6]:PORT`` or, with a default ``port``, ``HOST``.

    Raises:
        ValueError: it is none of them.
    """
    host, colon, number = text.strip().rpartition(":")
    if not colon or number.endswith("]"):
        host, number = text.strip(), "" if port is None else str(port)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (number.isascii() and number.isdigit()) or int(number) > 65535:
        raise ValueError(f"'{text}' is not HOST:PORT")
    return Address(host, int(number))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    return host in ("localhost", "::1") or host.startswith("127.")


def new_match_key(key: str) -> str:
    """A name for one offer of a server, unguessable, in TVM's form ``key:random``."""
    return f"{key}:{secrets.token_hex(16)}"


def frame(value: Any) -> bytes:
    """A JSON message with its length in front."""
    data = json.dumps(value, separators=(",", ":")).encode()
    return struct.pack("<i", len(data)) + data


def take_frame(buffer: bytearray, limit: int = MESSAGE_LIMIT) -> tuple[Any] | None:
    """Remove one message from the front of ``buffer`` and return it in a tuple; None: not all there yet.

    Raises:
        WireError: its length is out of range, or it is no JSON.
    """
    if len(buffer) < 4:
        return None
    (size,) = struct.unpack_from("<i", buffer)
    if not 0 < size <= limit:
        raise WireError(f"a message of {size} bytes; at most {limit} are allowed")
    if len(buffer) < 4 + size:
        return None
    data = bytes(buffer[4 : 4 + size])
    del buffer[: 4 + size]
    try:
        return (json.loads(data),)
    except (ValueError, RecursionError) as error:
        raise WireError(f"a message that is no JSON: {error}") from None


def magic(value: int) -> bytes:
    """A magic number or a code as it is sent."""
    return struct.pack("<i", value)


def take_handshake(buffer: bytearray) -> str | None:
    """The key in a client's first bytes; None: not all there yet.

    Raises:
        WireError: this is no client of TVM.
    """
    if len(buffer) >= 4 and struct.unpack_from("<i", buffer)[0] != RPC_MAGIC:
        raise WireError("not TVM's RPC protocol")
    if len(buffer) < 8:
        return None
    (size,) = struct.unpack_from("<i", buffer, 4)
    if not 0 < size <= KEY_LIMIT:
        raise WireError(f"a key of {size} bytes; at most {KEY_LIMIT} are allowed")
    if len(buffer) < 8 + size:
        return None
    try:
        return bytes(buffer[8 : 8 + size]).decode()
    except UnicodeDecodeError:
        raise WireError("a key that is no text") from None


def parse_key(text: str) -> tuple[str, float | None]:
    """Match key and time-out in seconds of a client's ``client:<match key> -timeout=<seconds>``.

    Raises:
        WireError: it does not begin with ``client:``, or the time-out is no positive number.
    """
    words = text.split()
    if not words or not words[0].startswith("client:"):
        raise WireError(f"the key {text[:80]!r} is not a client's")
    timeout: float | None = None
    for word in words[1:]:
        if word.startswith("-timeout="):
            try:
                timeout = float(word.removeprefix("-timeout="))
            except ValueError:
                raise WireError(f"{word!r} is no time-out") from None
            if not 0 < timeout < float("inf"):
                raise WireError(f"{word!r} is no time-out")
    return words[0].removeprefix("client:"), timeout


def welcome(key: str) -> bytes:
    """The server's answer to a client whose match key is right."""
    name = f"server:{key}".encode()
    return magic(RPC_MAGIC) + struct.pack("<i", len(name)) + name


def read_exactly(connection: socket.socket, count: int, until: float) -> bytes:
    """Read ``count`` bytes before the monotonic time ``until``.

    Raises:
        TimeoutError: they did not come in time.
        WireError: the other side closed the connection.
    """
    parts = bytearray()
    while len(parts) < count:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        connection.settimeout(left)
        chunk = connection.recv(min(count - len(parts), 1 << 16))
        if not chunk:
            raise WireError("the connection was closed")
        parts += chunk
    return bytes(parts)


def read_frame(connection: socket.socket, until: float, limit: int = MESSAGE_LIMIT) -> Any:
    """Read one message before the monotonic time ``until``; raises as `read_exactly` and `take_frame`."""
    head = read_exactly(connection, 4, until)
    (size,) = struct.unpack("<i", head)
    if not 0 < size <= limit:
        raise WireError(f"a message of {size} bytes; at most {limit} are allowed")
    message = take_frame(bytearray(head + read_exactly(connection, size, until)), limit)
    assert message is not None
    return message[0]


def keep_alive(connection: socket.socket) -> None:
    """Notice within a minute that the other side is gone without a word, and send at once."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
