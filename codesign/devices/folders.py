"""The folders of a server: one of its own for its sessions, held by a lock, empty at its start and end.

And the processes in them: what a session has started works in the session's folder, unless it went away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_SLOTS = 64


def take_slot(work: Path) -> tuple[IO[str], Path]:
    """A locked folder for a server's sessions; what a killed server left in it is removed.

    Several servers of one device share ``work``, and in it the cache.

    Raises:
        OSError: the folder cannot be made, or too many servers use it.
    """
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    for number in range(_SLOTS):
        lock = open(work / f"sessions-{number}.lock", "a")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        folder = work / f"sessions-{number}"
        kill_inside(folder)
        remove(folder)
        folder.mkdir(mode=0o700)
        return lock, folder.resolve()
    raise OSError(f"{_SLOTS} servers use {work} already")


def kill_inside(folder: Path) -> None:
    """Kill all processes that work in a folder.

    So those end too that are in another group and have another parent by now, where the system knows no
    subreaper: qemu-user does not.
    """
    base = os.path.realpath(folder)
    for _ in range(100):
        found = [pid for pid, cwd in _working_folders() if f"{cwd}/".startswith(f"{base}/")]
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.01)


def _working_folders() -> Iterator[tuple[int, str]]:
    """Every other process of this user and where it works."""
    me = os.getpid()
    with contextlib.suppress(FileNotFoundError):
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if int(name) != me:
                    yield int(name), os.readlink(f"/proc/{name}/cwd")


def remove(folder: Path) -> None:
    """Remove a folder, even if a session has taken away the permission to."""
    if not folder.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        for path, _, _ in os.walk(folder):
            with contextlib.suppress(OSError):
                os.chmod(path, 0o700)
        shutil.rmtree(folder, ignore_errors=True)
