"""The child's side: ``python -m codesign.worker``, started by `codesign.worker.Worker` only."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import sys

from codesign.lean import import_tvm
from targets.cpu import this_processor

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="codesign.worker")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--affinity", default="")
    options = parser.parse_args()
    _die_with(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if options.affinity:
        os.sched_setaffinity(0, {int(cpu) for cpu in options.affinity.split(",")})
    requests, answers = _private_pipes()
    this_processor()  # asks for the tile registers, which the libraries to be loaded may use
    import_tvm()
    from codesign.worker.serve import serve

    serve(requests, answers)


def _die_with(parent: int) -> None:
    """Have the kernel end this process with its parent, and before it when memory runs out."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")


def _private_pipes() -> tuple[int, int]:
    """Keep the two pipes for frames only: whatever prints to stdout goes to stderr instead."""
    requests, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    return requests, answers


if __name__ == "__main__":
    main()
