"""The converters, one for each peer: ``python -m benchmarks.peers.convert.PEER MODEL FOLDER``.

Each runs in the peer's converting environment, reads what `reference` left in FOLDER or the
PyTorch model itself, and writes the peer's files there. Each step that makes one file is timed; the
last line of the output is a JSON object, file name -> seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

Step = Callable[[Path], None]


def run(steps: dict[str, Step], folder: Path) -> None:
    """Make every file by its step, and print the seconds that each took.

    A step that fails is told on standard error and left out, so that the peer's other files count.
    """
    seconds: dict[str, float] = {}
    for name, step in steps.items():
        start = time.perf_counter()
        try:
            step(folder / name)
        except Exception as error:  # a peer's converter may raise anything
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        else:
            seconds[name] = time.perf_counter() - start
    print("\n" + json.dumps(seconds))
