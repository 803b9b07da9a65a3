"""A contestant's process, seen from the benchmark: requests with a deadline."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from typing import IO, Any

from benchmarks.peers.environments import ROOT


class ContestantFailedError(RuntimeError):
    """The contestant's process answered with an error, died, or was too slow."""


class Process:
    """A running `worker`; use it as a context manager, so that it ends."""

    def __init__(self, python: Path, variables: dict[str, str], log: IO[str]) -> None:
        self._popen = subprocess.Popen(
            [str(python), "-m", "benchmarks.peers.worker"],
            cwd=ROOT,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def ask(self, do: str, deadline: float, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer; after ``deadline`` seconds it is killed."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        timer = threading.Timer(deadline, self._popen.kill)
        timer.start()
        try:
            self._popen.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._popen.stdin.flush()
            line = self._popen.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise ContestantFailedError(f"{do}: its process ended with {self._popen.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContestantFailedError(f"{do}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._popen.kill()
        self._popen.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
