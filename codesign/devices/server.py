"""The server of a device: takes one client at a time and gives it a process of its own.

``python -m codesign.devices.server --key KEY --tracker HOST:PORT``; on a board this needs TVM, NumPy and
the standard library. This process imports none of them but the last: it listens, watches and cleans up,
and whatever happens in a session, it goes on.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codesign.devices import facts, wire
from codesign.devices.farewells import Farewells
from codesign.devices.folders import kill_inside, remove, take_slot
from codesign.devices.handshakes import Handshake, Handshakes
from codesign.devices.nursery import Nursery, code_text, kill_group
from codesign.devices.options import ServerOptions
from codesign.devices.registration import Registration
from codesign.devices.tracker import bind

_GONE_SECONDS = 3.0
_KILL_SECONDS = 5.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass
class _Session:
    """The client that is served now."""

    number: int
    connection: socket.socket
    peer: str
    folder: Path
    started: float
    seconds: float
    pid: int | None = None
    gone_since: float | None = None
    killed: float | None = None
    timed_out: bool = False

    @property
    def until(self) -> float:
        return self.started + self.seconds


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
        self._lock, self._sessions = take_slot(options.work)
        options.cache.clean()
        self._handshakes = Handshakes(self._admit, _log)
        self._nursery = Nursery(options, self._detach)
        self._farewells = Farewells()
        self._session: _Session | None = None
        self._serves_here = False
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

    @property
    def ready(self) -> bool:
        """Whether a session could start now, if none were running."""
        return self._serves_here or self._nursery.ready

    def health(self) -> dict[str, Any]:
        """What the tracker and its clients are told of this device."""
        running = self._session
        if running is not None:
            state = "busy"
        elif self.ready:
            state = "free"
        else:
            state = "ill" if self._nursery.ill else "starting"
        return {
            **self._info,
            "version": 1,
            "state": state,
            "error": self._nursery.error,
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

    def serve_here(self, opencl: bool) -> None:
        """Say that this process itself has TVM, so that sessions run in it."""
        self._serves_here, self._opencl = True, opencl
        self._offer()

    def run(self) -> None:
        """Serve until `stop` or a signal; all that was started is ended and removed then."""
        wake, waker = os.pipe()
        for end in (wake, waker):
            os.set_blocking(end, False)
        before = {number: signal.signal(number, self._signalled) for number in _SIGNALS}
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
        if self.options.fork:
            self._nursery.start()
        ready = self._wait(wake)
        session, registration = self._session, self._registration
        if session is not None and session.connection.fileno() in ready:
            session.gone_since = session.gone_since or time.monotonic()
        if self._nursery.fileno() in ready:
            self._hear()
        if registration is not None:
            if registration.fileno() in ready:
                registration.handle()
            registration.tick()
        self._handshakes.go_on(ready)
        self._farewells.go_on(ready)
        if self._listening.fileno() in ready:
            self._handshakes.accept(self._listening)
        self._watch()

    def _wait(self, wake: int) -> set[int]:
        """The descriptors on which something happened; none if something else is due."""
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        if self._accepting():
            poll.register(self._listening, select.POLLIN)
        if (control := self._nursery.fileno()) is not None:
            poll.register(control, select.POLLIN)
        self._handshakes.register(poll)
        self._farewells.register(poll)
        if self._session is not None and self._session.gone_since is None:
            poll.register(self._session.connection, select.POLLRDHUP)
        registration = self._registration
        if registration is not None and (descriptor := registration.fileno()) is not None:
            poll.register(descriptor, registration.events())
        found = {descriptor for descriptor, _ in poll.poll(int(self._pause() * 1000) + 1)}
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 512)
        return found

    def _pause(self) -> float:
        """Seconds until something is due, at most one."""
        due = [self._handshakes.due()]
        if self._session is not None and self._session.killed is None:
            due.append(self._session.until)
        if self.options.fork and not self._nursery.pid:
            due.append(self._nursery.next_start)
        return min(1.0, max(0.0, min(due) - time.monotonic()))

    def _accepting(self) -> bool:
        """Whether connections are looked at: a client without a tracker waits until its turn."""
        idle = self.ready and self._session is None
        return self._handshakes.has_room() and (idle or self._registration is not None)

    def _admit(self, peer: Handshake, match_key: str, timeout: float | None) -> None:
        """Begin a session with a peer, or raise WireError."""
        wanted = self.options.key if self._registration is None else self._registration.match_key
        free = self.ready and self._session is None
        if not free or wanted is None or match_key.encode() != wanted.encode():
            peer.connection.send(wire.magic(wire.RPC_MISMATCH))
            raise wire.WireError("another's match key, or one that is no longer good")
        peer.connection.setblocking(True)
        peer.connection.send(wire.welcome(self.options.key))
        seconds = min(timeout or self.options.max_session, self.options.max_session)
        self._counts["sessions"] += 1
        number = self._counts["sessions"]
        folder = self._sessions / str(number)
        self._session = session = _Session(
            number, peer.connection, peer.peer, folder, time.monotonic(), seconds
        )
        if self._registration is not None:
            self._registration.taken()
        _log(f"{peer.peer}: session {number} begins, at most {seconds:g} s")
        try:
            folder.mkdir(mode=0o700)
            if self._serves_here:
                self._serve_here(session)
            else:
                self._nursery.serve(number, folder, peer.connection)
        except OSError as error:
            self._finish(f"not started: {error}")

    def _serve_here(self, session: _Session) -> None:
        """Serve in this process: nothing else happens until the client is done."""
        from codesign.devices.inprocess import serve_here

        if self._registration is not None:
            self._registration.handle()  # so that the tracker hears of it first
        text = serve_here(session.connection, session.folder, self.options, session.seconds)
        session.timed_out = text == "timed out"
        self._finish(text)

    def _watch(self) -> None:
        """End a session whose time is over or whose client is gone, and a zygote that does not obey."""
        session, now = self._session, time.monotonic()
        if session is not None:
            if session.killed is not None:
                if now > session.killed + _KILL_SECONDS:
                    self._lose_zygote("it did not end a session")
            elif now > session.until:
                session.timed_out = True
                self._kill_session(
                    session,
                    f"RPCSessionTimeoutError: Your {session.seconds:g}s session has expired, try to"
                    f' increase the "session_timeout" value (at most {self.options.max_session:g}s'
                    " on this server).",
                )
            elif session.gone_since is not None and now > session.gone_since + _GONE_SECONDS:
                self._kill_session(session, None)
        if self._nursery.late():
            self._lose_zygote("it did not get ready")

    def _kill_session(self, session: _Session, reason: str | None) -> None:
        session.killed = time.monotonic()
        self._nursery.kill(session.number, reason)

    def _finish(self, text: str) -> None:
        """Forget the session, remove its folder and offer the device again."""
        session, self._session = self._session, None
        if session is None:
            return
        seconds = time.monotonic() - session.started
        if session.timed_out:
            text = f"timed out: killed after {session.seconds:g} s"
            self._counts["timed_out"] += 1
        elif text.startswith("signal"):
            self._counts["crashed"] += 1
        told = {"peer": session.peer, "seconds": round(seconds, 1), "time": time.time()}
        self._last = {"text": text, **told}
        _log(f"{session.peer}: session {session.number} ended after {seconds:.1f} s: {text}")
        self._farewells.add(session.connection)
        if not self._serves_here:
            kill_inside(session.folder)
        remove(session.folder)
        if self.ready:
            self._offer()

    def _offer(self) -> None:
        if self._registration is not None:
            self._registration.tell()
            self._registration.offer()

    def _hear(self) -> None:
        """One message of the zygote, or its end."""
        message = self._nursery.hear()
        if message is None:
            self._lose_zygote("it died")
            return
        event, session = message["event"], self._session
        if event == "ready":
            self._opencl = message["opencl"]
            _log("ready")
            self._offer()
        elif event == "failed":
            _log(f"failed: {message['text']}")
        elif session is not None and message["id"] == session.number:
            if event == "started":
                session.pid = message["pid"]
            else:
                self._finish(_exit_text(message["code"], session))

    def _lose_zygote(self, why: str) -> None:
        """End what is left of the zygote and of its session; another zygote follows."""
        _log(f"the process that starts sessions is ended: {why}")
        self._nursery.end(why)
        if self._session is not None:
            kill_group(self._session.pid)
            self._finish("the process that starts sessions died")
        if self._registration is not None:
            self._registration.taken()  # no offer until the next one is ready

    def _detach(self) -> None:
        """In a child: close what only the server may hold."""
        self._take_no_more()
        self._lock.close()

    def _close(self) -> None:
        session, self._session = self._session, None
        self._take_no_more()
        self._nursery.close()
        if session is not None:
            kill_group(session.pid)
            session.connection.close()
        kill_inside(self._sessions)
        remove(self._sessions)
        self._lock.close()
        _log("ended")

    def _take_no_more(self) -> None:
        self._listening.close()
        self._handshakes.close()
        self._farewells.close()
        if self._registration is not None:
            self._registration.close()


def _exit_text(code: int, session: _Session) -> str:
    """How a session ended, in words."""
    if session.gone_since is not None and code in (1, -signal.SIGKILL):
        return "the client went away"
    return code_text(code)


def _log(text: str) -> None:
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Entry point on boards: only the standard library is needed to get here."""
    from codesign.devices.serving import parse, serve

    return serve(parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
