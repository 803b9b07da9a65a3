"""A child process that does what may crash or hang, watched from outside."""

from __future__ import annotations

import collections
import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from codesign.worker import frames

UNLOADABLE = "unloadable"
"""Kind of the failure of a device that cannot load what was built for it."""

_CHUNK = 1 << 20
_START_SECONDS = 120.0
_STDERR_LINES = 40
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Failure:
    """A request that has no answer, as a value.

    Attributes:
        kind: ``error`` (the request raised), ``device`` (it raised because the device over RPC is gone,
            or cannot take what it is sent), ``unloadable`` (it has the library and cannot load it),
            ``crash`` (the process died), ``timeout`` (it was killed at its deadline) or ``protocol`` (it
            wrote something that is no answer).
        text: what is known: the exception, the signal, the last lines of standard error.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True)
class Reply:
    """The answer to a request: a JSON value and binary blobs."""

    result: Any
    blobs: tuple[bytes, ...] = ()


class Worker:
    """A persistent child process that builds, runs and times code, one request at a time.

    The child starts with the first request and again after each death. Nothing that happens in
    it raises here: a request returns a `Reply` or a `Failure`. The child dies with its parent, and
    with the thread that made the first request (Linux counts threads here); then the next request
    starts another.

    Args:
        threads: threads of the TVM runtime in the child; fixed for its life.
        affinity: processors that the child may run on; empty for all.
    """

    def __init__(self, threads: int = 1, affinity: Sequence[int] = ()) -> None:
        self.threads = threads
        self.affinity = tuple(affinity)
        self.generation = 0
        """Number of processes started so far: what was loaded in an earlier one is gone."""
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: collections.deque[str] = collections.deque(maxlen=_STDERR_LINES)
        self._drain: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the living child, or None."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def request(
        self,
        op: str,
        params: Mapping[str, Any] | None = None,
        blobs: Sequence[bytes | memoryview] = (),
        *,
        deadline: float = 60.0,
    ) -> Reply | Failure:
        """Send a request and wait for its answer, at most ``deadline`` seconds.

        A request that fails by crash, time-out or protocol ends the child; the next starts anew.
        """
        with self._lock:
            failure = self._ensure_started()
            if failure is not None:
                return failure
            return self._ask({"op": op, "params": dict(params or {})}, blobs, deadline)

    def start(self) -> Failure | None:
        """Start the child now and wait until it is ready; None if it is."""
        with self._lock:
            return self._ensure_started()

    def close(self) -> None:
        """End the child; a later request would start another."""
        with self._lock:
            self._kill()

    def kill(self) -> None:
        """End the child at once, whatever it does: a request on its way fails as a crash."""
        process = self._process
        if process is not None:
            with contextlib.suppress(OSError):
                process.kill()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter may be half gone
            self._kill()

    def _ensure_started(self) -> Failure | None:
        if self.pid is not None:
            return None
        self._kill()
        try:
            self._spawn()
        except OSError as error:
            return Failure("crash", f"the worker did not start: {error}")
        hello = self._ask({"op": "ping", "params": {}}, (), _START_SECONDS)
        return hello if isinstance(hello, Failure) else None

    def _spawn(self) -> None:
        self._process = process = subprocess.Popen(
            self._command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=worker_environment(self.threads),
            bufsize=0,
        )
        self.generation += 1
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        self._drain = threading.Thread(
            target=_keep_last_lines, args=(process.stderr, self._stderr), daemon=True
        )
        self._drain.start()

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "codesign.worker", "--parent", str(os.getpid())]
        if self.affinity:
            command += ["--affinity", ",".join(map(str, self.affinity))]
        return command

    def _ask(
        self, header: Mapping[str, Any], blobs: Sequence[bytes | memoryview], deadline: float
    ) -> Reply | Failure:
        self._stderr.clear()
        try:
            frame = self._exchange(frames.encode(header, blobs), time.monotonic() + deadline)
        except TimeoutError:
            return self._failed("timeout", f"no answer to '{header['op']}' in {deadline:g} s")
        except frames.FrameError as error:
            return self._failed("protocol", str(error))
        except (OSError, EOFError):
            return self._failed("crash", f"died in '{header['op']}'")
        except BaseException:
            self._kill()  # interrupted half-way: the pipes hold parts of two conversations
            raise
        if not frame.header.get("ok"):
            kind = str(frame.header.get("kind", "error"))
            return Failure(kind, str(frame.header.get("error", "unknown error")))
        return Reply(frame.header.get("result"), frame.blobs)

    def _exchange(self, pieces: list[memoryview], until: float) -> frames.Frame:
        """Write all pieces and read one frame, without ever blocking past ``until``."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin.fileno(), process.stdout.fileno()
        decoder = frames.Decoder()
        pending = [p for p in pieces if len(p)]
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(stdin, selectors.EVENT_WRITE)
            while True:
                ready = selector.select(max(0.0, until - time.monotonic()))
                if not ready:
                    raise TimeoutError
                for key, _ in ready:
                    if key.fd == stdout:
                        frame = _read(stdout, decoder)
                        if frame is not None:
                            return frame
                    elif not _write(stdin, pending):
                        selector.unregister(stdin)

    def _failed(self, kind: str, what: str) -> Failure:
        """End the child and tell what is known about its end."""
        process = self._process
        if kind == "crash" and process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
            what += f" ({_exit_text(process.returncode)})"
        self._kill()
        lines = [line for line in self._stderr if line.strip()]
        return Failure(kind, "\n".join([what, *lines[-10:]]))

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            process.kill()
        process.wait()
        if self._drain is not None:
            self._drain.join(1.0)  # so that the last words are complete
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def worker_environment(threads: int) -> dict[str, str]:
    """Environment in which the TVM runtime uses exactly ``threads`` threads.

    TVM by itself takes half of the processors and binds its threads to the first ones, where they
    meet the threads of other processes; placing is left to the system and to ``affinity``.
    """
    path = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(path),  # the child finds this package wherever it runs
        "TVM_NUM_THREADS": str(threads),
        "TVM_BIND_THREADS": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _read(fd: int, decoder: frames.Decoder) -> frames.Frame | None:
    data = os.read(fd, max(_CHUNK, min(decoder.needed(), 1 << 24)))
    if not data:
        raise EOFError
    return decoder.feed(data)


def _write(fd: int, pending: list[memoryview]) -> bool:
    """Write as much as the pipe takes; True while something is left."""
    try:
        while pending:
            count = os.write(fd, pending[0][:_CHUNK])
            pending[0] = pending[0][count:]
            if not len(pending[0]):
                pending.pop(0)
    except BlockingIOError:
        pass
    return bool(pending)


def _keep_last_lines(stream: IO[bytes], lines: collections.deque[str]) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed while reading
        while line := stream.readline(8192):
            lines.append(line.decode(errors="replace").rstrip()[:500])


def _exit_text(code: int | None) -> str:
    if code is None:
        return "still ending"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"
