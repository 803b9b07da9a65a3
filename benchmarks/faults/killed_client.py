"""A client that is killed while it tunes, and the same command again: what was measured is not done again."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.faults.farm import KEY, Farm
from benchmarks.faults.scenarios import Outcome

_MODEL = """
import torch


def make():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64 + 8 * i, 72 + 8 * i) for i in range(10)]
    return torch.nn.Sequential(*layers).eval(), (torch.randn(5, 64),)
"""
_SECONDS = 240.0


def client_killed() -> Outcome:
    """kill -9 after the first trials; the second run has them all, and makes only the rest."""
    with tempfile.TemporaryDirectory() as folder, Farm() as farm:
        farm.start("one")
        model = Path(folder) / "model.py"
        model.write_text(_MODEL)
        records = Path(folder) / "records.sqlite"
        command = [sys.executable, "-m", "codesign", "compile", f"{model}:make", "--device", KEY]
        command += ["--tracker", str(farm.tracker), "--trials", "3", "-o", f"{folder}/bundle"]
        began = time.monotonic()
        first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while _trials(records) < 4 and time.monotonic() - began < _SECONDS:
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        first.wait(10)
        before = _trials(records)
        resumed = time.monotonic()
        second = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        after, distinct = _trials(records), _trials(records, distinct=True)
        told = f"{before} trials before the kill, {after - before} after, {after - distinct} twice"
        stopped = "" if second.returncode == 0 else second.stderr[-300:]
        again = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        more = _trials(records) - after
        made = distinct if again.returncode == 0 and more == 0 else 0
        return Outcome(
            after,
            made,
            0.0,
            time.monotonic() - resumed,
            [f"{told}; a third run made {more}"],
            stopped,
        )


def _trials(records: Path, distinct: bool = False) -> int:
    """Rows of the table of trials; each pair of kernel and schedule once if ``distinct``."""
    if not records.exists():
        return 0
    what = "count(DISTINCT key || schedule)" if distinct else "count(*)"
    try:
        with sqlite3.connect(f"file:{records}?mode=ro", uri=True) as connection:
            return int(connection.execute(f"SELECT {what} FROM trials").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # it is being made
