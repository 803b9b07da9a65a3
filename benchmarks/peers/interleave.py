"""The protocol: all contestants loaded and ready, one block of calls each in turn.

In every sweep the order is random, and 100 ms pass before each block, because some thread pools
spin after their last call and slow whoever comes next. A sweep during which other processes used
more than 0.15 of a core is discarded. A contestant's latency is the median of its blocks' medians.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.peers.cpu import Usage
from benchmarks.peers.process import ContestantFailedError, Process
from benchmarks.peers.statistics import median

PAUSE_S = 0.1
BLOCK_S = 0.2
CALLS = 5
DEADLINE_S = 60.0
ENOUGH = 5  # quiet sweeps; with fewer, the quietest of all stand in and the rows say so


@dataclass(frozen=True)
class Sweep:
    """One turn of everybody: the median of each block in ms, and the cores that others used."""

    ms: Mapping[str, float]
    foreign: float


@dataclass(frozen=True)
class Sweeps:
    """The sweeps that count.

    Attributes:
        kept: those that were quiet enough.
        discarded: how many were not.
        quiet: False if too few were, and the quietest of the others had to be kept.
    """

    kept: Sequence[Sweep]
    discarded: int
    quiet: bool

    def of(self, name: str) -> list[float]:
        """Block medians in ms of one contestant."""
        return [sweep.ms[name] for sweep in self.kept if name in sweep.ms]

    def ratios(self, name: str, reference: str) -> list[float]:
        """Latency by the reference's, both of the same sweep, so that drift cancels."""
        both = [s.ms for s in self.kept if {name, reference} <= s.ms.keys()]
        return [ms[name] / ms[reference] for ms in both]


def measure(
    contestants: dict[str, Process],
    wanted: int,
    max_foreign: float,
    seed: int,
    progress: Callable[[str], None],
) -> tuple[Sweeps, dict[str, str]]:
    """Sweep until ``wanted`` sweeps were quiet, at most three times as many in all.

    Returns:
        the sweeps, and by name why a contestant dropped out; it is left out afterwards.
    """
    rng = random.Random(seed)
    running = dict(contestants)
    failures: dict[str, str] = {}
    sweeps: list[Sweep] = []
    while running and len(sweeps) < 3 * wanted:
        sweeps.append(_sweep(running, failures, rng))
        for name in failures:
            running.pop(name, None)
        quiet = sum(s.foreign <= max_foreign for s in sweeps)
        progress(f"sweep {len(sweeps)}: others {sweeps[-1].foreign:.2f} cores, {quiet} kept")
        if quiet == wanted:
            break
    return choose(sweeps, max_foreign), failures


def choose(sweeps: Sequence[Sweep], max_foreign: float) -> Sweeps:
    """The quiet sweeps, or, if they are too few, the quietest."""
    kept = [s for s in sweeps if s.foreign <= max_foreign]
    quiet = len(kept) >= min(ENOUGH, len(sweeps))
    if not quiet:
        kept = sorted(sweeps, key=lambda s: s.foreign)[:ENOUGH]
    return Sweeps(kept, len(sweeps) - len(kept), quiet)


def _sweep(running: Mapping[str, Process], failures: dict[str, str], rng: random.Random) -> Sweep:
    order = list(running)
    rng.shuffle(order)
    pids = [os.getpid(), *(process.pid for process in running.values())]
    before = Usage.now(pids)
    ms: dict[str, float] = {}
    for name in order:
        time.sleep(PAUSE_S)
        try:
            answer = running[name].ask("block", DEADLINE_S, seconds=BLOCK_S, calls=CALLS)
        except ContestantFailedError as failure:
            failures[name] = str(failure)
        else:
            ms[name] = median(answer["ms"])
    return Sweep(ms, Usage.now(pids).foreign_since(before))
