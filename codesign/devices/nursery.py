"""The server's end of the zygote: starts it, asks it for sessions, starts another when it dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codesign.devices import zygote
from codesign.devices.options import ServerOptions

_START_SECONDS = 180.0
_END_SECONDS = 5.0
_RESTART_SECONDS = (0.5, 2.0, 10.0, 30.0)
_ILL = 3


class Nursery:
    """At most one zygote at a time; one that dies is followed by another, after longer and longer pauses.

    Args:
        options: of the server.
        detach: called in the child: closes what only the server may hold, or a port would stay taken.
    """

    def __init__(self, options: ServerOptions, detach: Callable[[], None]) -> None:
        self.ready = False
        self.error: str | None = None
        self.pid = 0
        self.next_start = 0.0
        self._options, self._detach = options, detach
        self._control: socket.socket | None = None
        self._since = 0.0
        self._failures = 0

    @property
    def ill(self) -> bool:
        """Whether it failed so often that something must be wrong here."""
        return self._failures >= _ILL

    def fileno(self) -> int | None:
        """Descriptor to wait for; None while there is no zygote."""
        return None if self._control is None else self._control.fileno()

    def start(self) -> None:
        """Fork a zygote if there is none and its time has come."""
        if self.pid or time.monotonic() < self.next_start:
            return
        mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                mine.close()
                self._detach()
            finally:
                zygote.run(other, self._options)
        other.close()
        mine.setblocking(False)
        self._control, self.pid, self._since, self.ready = mine, pid, time.monotonic(), False

    def late(self) -> bool:
        """Whether it has been importing TVM for too long."""
        return bool(self.pid) and not self.ready and time.monotonic() > self._since + _START_SECONDS

    def hear(self) -> dict[str, Any] | None:
        """Its next message; None: it has died."""
        assert self._control is not None
        try:
            data = self._control.recv(zygote.MESSAGE_BYTES)
        except OSError:
            return None
        if not data:
            return None
        message: dict[str, Any] = json.loads(data)
        if message["event"] == "ready":
            self.ready, self.error, self._failures = True, None, 0
        elif message["event"] == "failed":
            self.error = message["text"]
        return message

    def serve(self, number: int, folder: Path, client: socket.socket) -> None:
        """Ask for a session; raises OSError if there is no zygote to ask."""
        if self._control is None:
            raise OSError("there is no process to fork from")
        message = json.dumps({"op": "serve", "id": number, "folder": str(folder)}).encode()
        socket.send_fds(self._control, [message], [client.fileno()])

    def kill(self, number: int, reason: str | None) -> None:
        """Ask for the end of a session; ``reason`` is sent to its client."""
        if self._control is not None:
            message = {"op": "kill", "id": number, "reason": reason}
            with contextlib.suppress(OSError):
                self._control.send(json.dumps(message).encode())

    def end(self, why: str) -> None:
        """End this zygote, its session with it; the next comes after a pause."""
        was_ready, self.ready = self.ready, False
        code = self.close(1.0)
        self.error = self.error or f"{why} ({code_text(code)})"
        self._failures = 1 if was_ready else self._failures + 1
        pauses = _RESTART_SECONDS
        self.next_start = time.monotonic() + pauses[min(self._failures, len(pauses)) - 1]

    def close(self, seconds: float = _END_SECONDS) -> int | None:
        """Let it end its session and itself; its exit code, None if it had to be killed."""
        if self._control is not None:
            self._control.close()
            self._control = None
        pid, self.pid = self.pid, 0
        return _end_process(pid, seconds) if pid else None


def kill_group(leader: int | None) -> None:
    """Kill a session's processes, if it got as far as having some."""
    if leader is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)


def code_text(code: int | None) -> str:
    """An exit code in words; negative: the signal."""
    if code is None:
        return "killed"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
        return f"signal {-code}"
    return "ended" if code == 0 else f"exit status {code}"


def _end_process(pid: int, seconds: float) -> int | None:
    """Wait so long for a child to end, then kill it; its exit code, None if it was killed here."""
    until = time.monotonic() + seconds
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < until:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return None
