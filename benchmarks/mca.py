"""Estimates of LLVM's machine code analyser: how many cycles an iteration of a loop takes on a core.

It simulates a core from the tables by which LLVM schedules code for it, all loads served by the first-level
cache and no branch mispredicted. Some cores have the tables of another one: what each runs with is read from
the analyser's own answer, never assumed. What it says is an estimate and no measurement.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

OLDEST = 16
"""Earlier versions have no tables of their own for Neoverse cores."""

NEWEST = 30
"""Up to which version a name with a version is looked for."""

_SECONDS = 60
_ITERATIONS = 400
_ACCUMULATORS = 24

_MODELS = {
    "A57Unit": "Cortex-A57",
    "CortexA55Unit": "Cortex-A55",
    "CortexA510Unit": "Cortex-A510",
    "N1Unit": "Neoverse N1",
    "N2Unit": "Neoverse N2",
    "N3Unit": "Neoverse N3",
    "V1Unit": "Neoverse V1",
    "V2Unit": "Neoverse V2",
    "V3Unit": "Neoverse V3",
}
"""Whose tables they are, by how names of execution units begin."""


class McaError(Exception):
    """The analyser is absent, too old, or did not take what it was given."""


@dataclass(frozen=True)
class Estimate:
    """What the analyser says of a block that is repeated.

    Attributes:
        cycles: of one iteration, in the steady state.
        model: whose tables it was computed with.
    """

    cycles: float
    model: str


@dataclass(frozen=True)
class Analyser:
    """An ``llvm-mca``.

    Attributes:
        path: the program.
        version: as it says itself, e.g. ``22.1.8``.
    """

    path: str
    version: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])

    def estimate(self, lines: Sequence[str], core: str, features: Iterable[str] = ()) -> Estimate:
        """Cycles of one iteration of ``lines`` on ``core`` (LLVM's name), from a short and a long run."""
        block = without_jumps(lines)
        short = self._run(block, core, features, _ITERATIONS)
        long = self._run(block, core, features, 2 * _ITERATIONS)
        return Estimate((long[0] - short[0]) / _ITERATIONS, long[1])

    def peak(self, instruction: str, core: str, features: Iterable[str] = ()) -> float:
        """Instructions a cycle, at most: ``instruction`` with an accumulator ``{}`` for each of many copies.

        Example: ``fmla v{}.4s, v30.4s, v31.4s``.
        """
        lines = [instruction.format(i) for i in range(_ACCUMULATORS)]
        return _ACCUMULATORS / self.estimate(lines, core, features).cycles

    def _run(
        self, block: str, core: str, features: Iterable[str], iterations: int
    ) -> tuple[int, str]:
        """(cycles, model)."""
        options = [f"-mattr={','.join(f'+{f}' for f in sorted(features))}"] if features else []
        command = [
            self.path, "-mtriple=aarch64-linux-gnu", f"-mcpu={core}", *options, "-json",
            f"-iterations={iterations}", "-",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, input=block, capture_output=True, text=True, timeout=_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise McaError(f"{' '.join(command)}: {error}") from error
        if done.returncode:
            raise McaError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
        return parse(done.stdout)


def parse(answer: str) -> tuple[int, str]:
    """(cycles of all iterations, whose tables) in an answer as JSON."""
    try:
        found = json.loads(answer)
        (region,) = found["CodeRegions"]
        cycles = int(region["SummaryView"]["TotalCycles"])
        units = [str(unit) for unit in found["TargetInfo"]["Resources"]]
    except (ValueError, KeyError, TypeError) as error:
        raise McaError(f"not an answer of llvm-mca: {error!r}") from error
    first = units[0] if units else ""
    prefix = re.match(r".*?Unit", first)
    name = prefix[0] if prefix else first
    return cycles, _MODELS.get(name, name or "unknown")


def without_jumps(lines: Sequence[str]) -> str:
    """A loop's body as the analyser takes it: the jump to a label becomes one to the next instruction."""
    kept = [re.sub(r"\.L\w+$", "#0", line) for line in lines]
    return "\n".join(kept) + "\n"


def version_of(said: str) -> str | None:
    """The version in the answer to ``--version``; None if there is none."""
    found = re.search(r"LLVM version (\d+(?:\.\d+)*)", said)
    return found[1] if found else None


@cache
def find_analyser() -> Analyser:
    """The newest ``llvm-mca`` in PATH; raises McaError if none is new enough."""
    names = ["llvm-mca", *(f"llvm-mca-{n}" for n in range(OLDEST, NEWEST + 1))]
    found = []
    for path in filter(None, map(shutil.which, names)):
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_SECONDS)
        if (version := version_of(done.stdout)) is not None:
            found.append(Analyser(path, version))
    new = [analyser for analyser in found if analyser.major >= OLDEST]
    if not new:
        seen = ", ".join(f"{Path(a.path).name} {a.version}" for a in found) or "none"
        raise McaError(f"no llvm-mca of version {OLDEST} or later: {seen}; apt install llvm")
    return max(new, key=lambda analyser: analyser.major)
