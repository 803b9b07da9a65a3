"""The server of a device: takes one client at a time and gives it a process of its own.

``python -m codesign.devices.server --key KEY --tracker HOST:PORT``; on a board this needs TVM, NumPy and
the standard library. This process imports none of them but the last: it listens, watches and cleans up,
and whatever happens in a session, it goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codesign.devices import facts, wire, zygote
from codesign.devices.options import ServerOptions
from codesign.devices.registration import Registration
from codesign.devices.tracker import bind

_HANDSHAKE_SECONDS = 5.0
_HANDSHAKES = 32
_GONE_SECONDS = 3.0
_KILL_SECONDS = 5.0
_START_SECONDS = 180.0
_RESTART_SECONDS = (0.5, 2.0, 10.0, 30.0)
_SLOTS = 64


@dataclass
class _Handshake:
    """A peer that has not yet said who it is."""

    connection: socket.socket
    peer: str
    until: float
    data: bytearray = field(default_factory=bytearray)


@dataclass
class _Session:
    """The client that is served now."""

    number: int
    connection: socket.socket
    peer: str
    folder: Path
    started: float
    until: float
    seconds: float
    pid: int | None = None
    gone_since: float | None = None
    killed: float | None = None
    timed_out: bool = False


class Server:
    """One device's server.

    Args:
        options: how it runs.

    Raises:
        OSError: the address or the work folder cannot be had.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self._listening = bind(options.host, options.port)
        self.port: int = self._listening.getsockname()[1]
        self._listening.setblocking(False)
        self._lock, self._sessions = _take_slot(options.work)
        options.cache.clean()
        self._handshakes: list[_Handshake] = []
        self._session: _Session | None = None
        self._control: socket.socket | None = None
        self._zygote = 0
        self._zygote_since = 0.0
        self._zygote_ready = False
        self._failures = 0
        self._next_start = 0.0
        self._error: str | None = None
        self._opencl: bool | None = None
        self._counts = {"sessions": 0, "crashed": 0, "timed_out": 0}
        self._last: dict[str, Any] | None = None
        self._stop = False
        self._info = facts.info(options.key, options.name, options.emulated, options.work)
        self._registration = (
            Registration(options.tracker, options.key, self.port, options.advertise, self.health)
            if options.tracker
            else None
        )

    def health(self) -> dict[str, Any]:
        """What the tracker and its clients are told of this device."""
        running = self._session
        if running is not None:
            state = "busy"
        elif self._zygote_ready:
            state = "free"
        else:
            state = "ill" if self._failures > 2 else "starting"
        return {
            **self._info,
            "version": 1,
            "state": state,
            "error": self._error,
            "opencl": self._opencl,
            "fork": self.options.fork,
            "counts": dict(self._counts),
            "last_exit": self._last,
            "session": None
            if running is None
            else {
                "peer": running.peer,
                "seconds": round(time.monotonic() - running.started, 1),
                "at_most": running.seconds,
            },
            "device": facts.state(disk=self.options.work, measure=False),
        }

    def ready_without_fork(self, opencl: bool) -> None:
        """Say that this process itself has TVM and serves sessions."""
        self._zygote_ready, self._opencl = True, opencl
        self._offer()

    def run(self) -> None:
        """Serve until `stop` or a signal; all that was started is ended and removed then."""
        wake, waker = os.pipe()
        for end in (wake, waker):
            os.set_blocking(end, False)
        before = {n: signal.signal(n, self._signalled) for n in _signals()}
        old_waker = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        try:
            while not self._stop:
                try:
                    self._turn(wake)
                except Exception as error:  # of one connection: the next is served all the same
                    _log(f"error: {type(error).__name__}: {error}")
                    time.sleep(0.1)
        finally:
            self._close()
            signal.set_wakeup_fd(old_waker)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wake)
            os.close(waker)

    def stop(self) -> None:
        """Let `run` end after its present turn."""
        self._stop = True

    def _signalled(self, number: int, frame: object) -> None:
        self._stop = True

    def _turn(self, wake: int) -> None:
        """Wait for whatever comes first, and do it."""
        self._start_zygote()
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        if self._accepting():
            poll.register(self._listening, select.POLLIN)
        if self._control is not None:
            poll.register(self._control, select.POLLIN)
        for handshake in self._handshakes:
            poll.register(handshake.connection, select.POLLIN)
        session, registration = self._session, self._registration
        if session is not None and session.gone_since is None:
            poll.register(session.connection, select.POLLRDHUP)
        if registration is not None and (descriptor := registration.fileno()) is not None:
            poll.register(descriptor, registration.events())
        ready = {fd for fd, _ in poll.poll(int(self._pause() * 1000) + 1)}
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 512)
        if session is not None and session.connection.fileno() in ready:
            session.gone_since = session.gone_since or time.monotonic()
        if self._control is not None and self._control.fileno() in ready:
            self._hear()
        if registration is not None:
            if registration.fileno() in ready:
                registration.handle()
            registration.tick()
        for handshake in list(self._handshakes):
            self._greet(handshake, handshake.connection.fileno() in ready)
        if self._listening.fileno() in ready:
            self._accept()
        self._watch()

    def _pause(self) -> float:
        """Seconds until something is due, at most one."""
        now, due = time.monotonic(), [1.0]
        due += [h.until - now for h in self._handshakes]
        if self._session is not None and self._session.killed is None:
            due.append(self._session.until - now)
        if self._zygote == 0:
            due.append(self._next_start - now)
        return max(0.0, min(due))

    def _accepting(self) -> bool:
        """Whether connections are looked at: a client without a tracker waits until its turn."""
        idle = self._zygote_ready and self._session is None
        return len(self._handshakes) < _HANDSHAKES and (idle or self._registration is not None)

    def _accept(self) -> None:
        connection, address = self._listening.accept()
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            wire.keep_alive(connection)
        until = time.monotonic() + _HANDSHAKE_SECONDS
        self._handshakes.append(_Handshake(connection, str(address[0]), until))

    def _greet(self, handshake: _Handshake, ready: bool) -> None:
        """Read on in a client's first bytes; answer them, or hang up."""
        try:
            if ready:
                data = handshake.connection.recv(wire.KEY_LIMIT)
                if not data:
                    raise wire.WireError("it closed the connection")
                handshake.data += data
                if (text := wire.take_handshake(handshake.data)) is not None:
                    self._handshakes.remove(handshake)
                    self._admit(handshake, *wire.parse_key(text))
                    return
            if time.monotonic() > handshake.until:
                raise wire.WireError(f"it said nothing for {_HANDSHAKE_SECONDS:g} s")
        except BlockingIOError:
            return
        except (OSError, wire.WireError) as error:
            _log(f"{handshake.peer}: turned away: {error}")
            if handshake in self._handshakes:
                self._handshakes.remove(handshake)
            handshake.connection.close()

    def _admit(self, handshake: _Handshake, match_key: str, timeout: float | None) -> None:
        wanted = self.options.key if self._registration is None else self._registration.match_key
        free = self._zygote_ready and self._session is None
        if not free or wanted is None or match_key.encode() != wanted.encode():
            handshake.connection.send(wire.magic(wire.RPC_MISMATCH))
            raise wire.WireError("another's match key, or one that is no longer good")
        handshake.connection.setblocking(True)
        handshake.connection.send(wire.welcome(self.options.key))
        now = time.monotonic()
        seconds = min(timeout or self.options.max_session, self.options.max_session)
        self._counts["sessions"] += 1
        number = self._counts["sessions"]
        folder = self._sessions / str(number)
        self._session = _Session(
            number, handshake.connection, handshake.peer, folder, now, now + seconds, seconds
        )
        if self._registration is not None:
            self._registration.taken()
        _log(f"{handshake.peer}: session {number} begins, at most {seconds:g} s")
        if not self.options.fork:
            self._serve_here(self._session)
            return
        try:
            folder.mkdir(mode=0o700)
            assert self._control is not None
            message = json.dumps({"op": "serve", "id": number, "folder": str(folder)}).encode()
            socket.send_fds(self._control, [message], [handshake.connection.fileno()])
        except OSError as error:
            self._finish(f"not started: {error}")

    def _serve_here(self, session: _Session) -> None:
        """Serve in this process: nothing else happens until the client is done."""
        from codesign.devices.inprocess import serve_here

        session.folder.mkdir(mode=0o700)
        if self._registration is not None and (registration := self._registration).fileno():
            registration.handle()  # so that the tracker hears of it first
        text = serve_here(session.connection, session.folder, self.options, session.seconds)
        session.timed_out = text == "timed out"
        self._finish(text)

    def _watch(self) -> None:
        """End a session whose time is over or whose client is gone, and a zygote that does not obey."""
        session, now = self._session, time.monotonic()
        if session is not None:
            if session.killed is not None:
                if now > session.killed + _KILL_SECONDS:
                    self._kill_zygote("it did not end a session")
            elif now > session.until:
                session.timed_out = True
                self._kill_session(
                    f"RPCSessionTimeoutError: Your {session.seconds:g}s session has expired, try to"
                    f' increase the "session_timeout" value (at most {self.options.max_session:g}s'
                    " on this server)."
                )
            elif session.gone_since is not None and now > session.gone_since + _GONE_SECONDS:
                self._kill_session(None)
        if self._zygote and not self._zygote_ready and now > self._zygote_since + _START_SECONDS:
            self._kill_zygote("it did not get ready")

    def _kill_session(self, reason: str | None) -> None:
        assert self._session is not None
        self._session.killed = time.monotonic()
        if self._control is not None:
            message = {"op": "kill", "id": self._session.number, "reason": reason}
            with contextlib.suppress(OSError):
                self._control.send(json.dumps(message).encode())

    def _finish(self, text: str) -> None:
        """Forget the session, remove its folder and offer the device again."""
        session, self._session = self._session, None
        if session is None:
            return
        seconds = time.monotonic() - session.started
        if session.timed_out:
            text = f"timed out: killed after {session.seconds:g} s"
            self._counts["timed_out"] += 1
        elif text.startswith("signal") and session.gone_since is None:
            self._counts["crashed"] += 1
        self._last = {
            "text": text,
            "peer": session.peer,
            "seconds": round(seconds, 1),
            "time": time.time(),
        }
        _log(f"{session.peer}: session {session.number} ended after {seconds:.1f} s: {text}")
        with contextlib.suppress(OSError):
            session.connection.shutdown(socket.SHUT_RDWR)
        session.connection.close()
        _remove(session.folder)
        if self._zygote_ready:
            self._offer()

    def _offer(self) -> None:
        if self._registration is not None:
            self._registration.tell()
            self._registration.offer()

    def _hear(self) -> None:
        """One message of the zygote, or its end."""
        assert self._control is not None
        try:
            data = self._control.recv(zygote.MESSAGE_BYTES)
        except OSError:
            data = b""
        if not data:
            self._kill_zygote("it died")
            return
        message = json.loads(data)
        event, session = message["event"], self._session
        if event == "ready":
            self._zygote_ready, self._opencl = True, message["opencl"]
            self._failures, self._error = 0, None
            _log(f"ready: TVM came up in {time.monotonic() - self._zygote_since:.1f} s")
            self._offer()
        elif event == "failed":
            self._error = message["text"]
            _log(f"failed: {self._error}")
        elif session is not None and message.get("id") == session.number:
            if event == "started":
                session.pid = message["pid"]
            elif event == "ended":
                self._finish(exit_text(message["code"], session))

    def _start_zygote(self) -> None:
        if self._zygote or not self.options.fork or time.monotonic() < self._next_start:
            return
        mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                mine.close()
                self._close_descriptors()
            finally:
                zygote.run(other, self.options)
        other.close()
        mine.setblocking(False)
        self._control, self._zygote, self._zygote_since = mine, pid, time.monotonic()
        self._zygote_ready = False

    def _close_descriptors(self) -> None:
        """What a child must not hold: else a port stays taken and a lost peer unnoticed."""
        self._listening.close()
        self._lock.close()
        for handshake in self._handshakes:
            handshake.connection.close()
        if self._registration is not None:
            self._registration.close()

    def _kill_zygote(self, why: str) -> None:
        """End the zygote and what is left of its session; it is started again after a pause."""
        _log(f"the process that starts sessions is ended: {why}")
        pid, self._zygote = self._zygote, 0
        was_ready, self._zygote_ready = self._zygote_ready, False
        if self._control is not None:
            self._control.close()
            self._control = None
        if pid:
            status = _end_process(pid, 0.0 if self._stop else 1.0)
            self._error = self._error or f"{why} ({_code_text(status)})"
        if self._session is not None:
            if self._session.pid is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._session.pid, signal.SIGKILL)
            self._finish("the process that starts sessions died")
        self._failures = 1 if was_ready else self._failures + 1
        pauses = _RESTART_SECONDS
        self._next_start = time.monotonic() + pauses[min(self._failures, len(pauses)) - 1]
        if self._registration is not None:
            self._registration.taken()  # no offer until the next one is ready

    def _close(self) -> None:
        session, self._session = self._session, None
        if self._registration is not None:
            self._registration.close()
        for handshake in self._handshakes:
            handshake.connection.close()
        self._listening.close()
        if self._control is not None:
            self._control.close()  # the zygote kills the session and ends
        if self._zygote:
            _end_process(self._zygote, _KILL_SECONDS)
        if session is not None:
            if session.pid is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(session.pid, signal.SIGKILL)
            session.connection.close()
        _remove(self._sessions)
        self._lock.close()
        _log("ended")


def exit_text(code: int, session: _Session | None = None) -> str:
    """How a session ended, in words."""
    if session is not None and session.gone_since is not None and code in (1, -signal.SIGKILL):
        return "the client went away"
    return _code_text(code)


def _code_text(code: int | None) -> str:
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
    while True:
        try:
            done, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return None
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            break
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    return None


def _take_slot(work: Path) -> tuple[Any, Path]:
    """A locked folder for this server's sessions; what a killed server left in it is removed.

    Raises:
        OSError: the folder cannot be made, or too many servers use it.
    """
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    for number in range(_SLOTS):
        lock = open(work / f"sessions-{number}.lock", "a")  # noqa: SIM115: held for the server's life
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        folder = work / f"sessions-{number}"
        _remove(folder)
        folder.mkdir(mode=0o700)
        return lock, folder.resolve()
    raise OSError(f"{_SLOTS} servers use {work} already")


def _remove(folder: Path) -> None:
    """Remove a folder, even if a session has taken away the permission to."""
    if not folder.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        for path, _, _ in os.walk(folder):
            with contextlib.suppress(OSError):
                os.chmod(path, 0o700)
        shutil.rmtree(folder, ignore_errors=True)


def _signals() -> tuple[signal.Signals, ...]:
    return (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _log(text: str) -> None:
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Entry point on boards: only the standard library is needed to get here."""
    from codesign.devices.serving import parse, serve

    return serve(parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
