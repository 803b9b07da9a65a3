"""Sessions in the server's own process, for systems on which a fork of TVM does not live.

Nothing here protects the server: a kernel that crashes ends it, and one that hangs is ended together with
it. Run such a server under something that starts it again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from pathlib import Path

from codesign.devices import opencl_runtime, session
from codesign.devices.options import ServerOptions
from codesign.lean import import_tvm

_GRACE_SECONDS = 3.0
RESTART_ME = 75
"""Exit code of a server that a session hung (EX_TEMPFAIL of sysexits.h)."""


def prepare(options: ServerOptions) -> bool:
    """Import TVM; whether it finds OpenCL."""
    import_tvm()
    session.add_opencl(options)
    return opencl_runtime.exists()


def serve_here(
    connection: socket.socket, folder: Path, options: ServerOptions, seconds: float
) -> str:
    """Serve a client, and say in words how its session ended.

    After ``seconds`` the connection is shut; if the session does not end by that, the process does.
    """
    done, expired = threading.Event(), threading.Event()
    watch = threading.Thread(target=_watch, args=(connection, seconds, done, expired), daemon=True)
    before, allowed = Path.cwd(), session.affinity()
    handlers = {n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGTERM, signal.SIGHUP)}
    watch.start()
    os.chdir(folder)
    try:
        session.serve(os.dup(connection.fileno()), folder, options)
        text = "ended"
    except Exception as error:
        text = f"{type(error).__name__}: {str(error).strip()[-200:]}"
    finally:
        done.set()
        watch.join()
        os.chdir(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        with contextlib.suppress(OSError, AttributeError):
            os.sched_setaffinity(0, allowed)
    return "timed out" if expired.is_set() else text


def _watch(
    connection: socket.socket,
    seconds: float,
    done: threading.Event,
    expired: threading.Event,
) -> None:
    if done.wait(seconds):
        return
    expired.set()
    session.say(f"session: not ended after {seconds:g} s, its connection is shut")
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    if not done.wait(_GRACE_SECONDS):
        session.say(f"session: it hangs; the server ends with {RESTART_ME} to be started again")
        os._exit(RESTART_ME)
