"""Runs `codesign.devices.probe` with a hard deadline."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from codesign.devices.wire import Address
from codesign.worker.process import worker_environment


@dataclass(frozen=True)
class Unanswered:
    """A session that came to nothing: ``timeout`` or ``error``, and what is known of it."""

    kind: str
    text: str


def probe(
    tracker: Address,
    key: str,
    *,
    seconds: float,
    tell: tuple[str, ...] = (),
    pings: int = 0,
    kernel: bool = False,
    machine: str | None = None,
) -> dict[str, Any] | Unanswered:
    """One session with a device of a key, within so many seconds.

    Args:
        tracker: where to ask for it.
        key: of the device.
        seconds: deadline of all together; the process that holds the session is killed then.
        tell: which of ``info``, ``state`` and ``facts`` to ask for.
        pings: round trips to time.
        kernel: build a kernel for the device, run it there and check the result.
        machine: its processor, as ``uname -m`` says it; None: as its ``info`` says.

    Returns:
        ``connect_s``, each thing told (None: by a server that is not ours), ``round_trips_s``, ``opencl``
        and ``kernel``; or why there is no answer.
    """
    asked = {
        "tracker": [tracker.host, tracker.port],
        "key": key,
        "seconds": max(1, math.ceil(seconds)),  # whole: TVM's C++ server dies of any other number
        "tell": tell,
        "pings": pings,
        "kernel": kernel,
        "machine": machine,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "codesign.devices.probe"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=worker_environment(1),
        start_new_session=True,
        text=True,
    )
    try:
        told, said = process.communicate(json.dumps(asked) + "\n", timeout=seconds)
    except subprocess.TimeoutExpired:
        return Unanswered("timeout", f"no answer in {seconds:g} s")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    try:
        return json.loads(told.strip().splitlines()[-1])
    except (IndexError, ValueError):
        lines = [line for line in said.splitlines() if line.strip()]
        return Unanswered("error", "\n".join(lines[-6:]) or f"exit status {process.returncode}")
