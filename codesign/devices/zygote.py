"""The process that imports TVM once and forks one child for each session.

Importing TVM takes a second on a fast machine and ten on a slow or emulated one, and a fresh interpreter
cannot always be started (qemu-user runs no foreign program without help of the system). A fork of a
process with one thread is always possible. So this one keeps to one thread and runs no foreign code.

It speaks with the server over a socket pair, one JSON object in each message:

    -> {"op": "serve", "id": 1, "folder": "..."} with the client's socket; {"op": "kill", "id": 1, "reason": "..."}
    <- {"event": "ready", "opencl": false}, "started" with a pid, "ended" with code and signal, "failed"
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from codesign.devices import opencl_runtime, session
from codesign.devices.folders import kill_inside
from codesign.devices.options import ServerOptions
from codesign.lean import import_tvm

MESSAGE_BYTES = 1 << 16
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_CHECK_SECONDS = 60.0
_OPENCL, _NO_OPENCL = 10, 11


@dataclass
class Session:
    """A living child and the server's copy of its client's socket."""

    number: int
    pid: int
    descriptor: int
    folder: Path
    reason: str | None = None


def run(control: socket.socket, options: ServerOptions) -> NoReturn:
    """Be the zygote until the server closes its end; every child is dead then."""
    code = 1
    try:
        _prepare()
        import_tvm()
        session.add_opencl(options)
        _send(control, {"event": "ready", "opencl": _check()})
        _Zygote(control, options).loop()
        code = 0
    except BaseException as error:  # whatever it is, the server must hear it
        traceback.print_exc()
        with contextlib.suppress(OSError):
            _send(control, {"event": "failed", "text": f"{type(error).__name__}: {error}"[:4000]})
    finally:
        os._exit(code)


def _prepare() -> None:
    os.setsid()  # Ctrl-C is the server's affair
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for name in _ONE_THREAD:
        os.environ[name] = "1"
    # TVM takes OMP_NUM_THREADS for its own pool otherwise, and no session could have a second thread
    # (and whoever starts the server may have meant his own threads by it)
    wanted = os.environ.get("TVM_NUM_THREADS", "")
    most = max(int(wanted) if wanted.isdigit() else 0, os.cpu_count() or 1)
    os.environ["TVM_NUM_THREADS"] = str(most)
    session.become_subreaper()


def _check() -> bool:
    """Whether there is OpenCL, asked in a child: its runtime would not survive a fork.

    Raises:
        RuntimeError: a forked child that uses TVM dies here, so sessions would too.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = _OPENCL if opencl_runtime.exists() else _NO_OPENCL
        finally:
            os._exit(code)
    until = time.monotonic() + _CHECK_SECONDS
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code in (_OPENCL, _NO_OPENCL):
                return code == _OPENCL
            raise RuntimeError(f"a forked process that uses TVM ends with {code}; try --no-fork")
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise RuntimeError("a forked process that uses TVM hangs; try --no-fork")


class _Zygote:
    def __init__(self, control: socket.socket, options: ServerOptions) -> None:
        self._control, self._options = control, options
        self._session: Session | None = None
        self._wake, wake = os.pipe()
        for end in (self._wake, wake):
            os.set_blocking(end, False)
        self._wake_ends = (self._wake, wake)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def loop(self) -> None:
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            poll.poll(5000)  # a lost signal costs seconds, not the session
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 512)
            self._reap()
            if not self._listen():
                self._end(None)
                return

    def _listen(self) -> bool:
        """Do what the server asked for; False when it is gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self._control, MESSAGE_BYTES, 1, socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return True
        if not data:
            return False
        message = json.loads(data)
        if message["op"] == "serve":
            self._serve(message["id"], Path(message["folder"]), descriptors[0])
        elif self._session is not None and self._session.number == message["id"]:
            self._end(message.get("reason"))
        return True

    def _serve(self, number: int, folder: Path, descriptor: int) -> None:
        self._end(None)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._child(folder, descriptor, parent)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # whoever is first; the child makes itself the leader too
        self._session = Session(number, pid, descriptor, folder)
        _send(self._control, {"event": "started", "id": number, "pid": pid})

    def _child(self, folder: Path, descriptor: int, parent: int) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            with contextlib.suppress(PermissionError):
                os.setsid()
            self._control.close()
            for end in self._wake_ends:
                os.close(end)
            session.confine(folder, self._options, parent)
            session.serve(descriptor, folder, self._options)
            code = 0
        except Exception as error:
            session.say(f"session: {type(error).__name__}: {str(error).strip()[-500:]}")
        finally:
            os._exit(code)

    def _reap(self) -> None:
        """Take in dead children; the session's own is told to the server."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._session is not None and pid == self._session.pid:
                self._finish(self._session, status)

    def _end(self, reason: str | None) -> None:
        """Kill the running session, if there is one."""
        current = self._session
        if current is None:
            return
        current.reason = reason
        _kill_group(current.pid)
        _, status = os.waitpid(current.pid, 0)
        self._finish(current, status)

    def _finish(self, ended: Session, status: int) -> None:
        self._session = None
        _kill_group(ended.pid)
        _kill_children()
        kill_inside(ended.folder)
        if ended.reason:
            _tell_client(ended.descriptor, ended.reason)
        os.close(ended.descriptor)
        code = os.waitstatus_to_exitcode(status)
        _send(self._control, {"event": "ended", "id": ended.number, "code": code})


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _kill_children() -> None:
    """Kill what a session left behind: only that can be a child of this process now."""
    for _ in range(100):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _children() -> list[int]:
    me, found = os.getpid(), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError, ValueError):
            stat = Path("/proc", name, "stat").read_text()
            if int(stat.rpartition(")")[2].split()[1]) == me:
                found.append(int(name))
    return found


def _tell_client(descriptor: int, reason: str) -> None:
    """Send an error in TVM's form, so that the client's call ends with it."""
    import tvm_ffi

    with contextlib.suppress(Exception):  # it may be gone, or not reading
        os.set_blocking(descriptor, False)
        tvm_ffi.get_global_func("rpc.ReturnException")(descriptor, reason)


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    control.send(json.dumps(message).encode())
