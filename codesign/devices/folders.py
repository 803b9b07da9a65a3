"""The folders of a server: one of its own for its sessions, held by a lock, empty at its start and end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
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
        remove(folder)
        folder.mkdir(mode=0o700)
        return lock, folder.resolve()
    raise OSError(f"{_SLOTS} servers use {work} already")


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
