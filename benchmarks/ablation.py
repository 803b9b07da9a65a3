"""What each family of compression gives alone, and all of them together, with the same budget.

    python -m benchmarks.ablation examples/digits_cnn.toml --max-loss 0.005 --minutes 4
    python -m benchmarks.ablation examples/minilm.toml --set "issue 2=ffn heads layers int8 sparse" --set all

One sweep for each set of passes, all beside one file of records, so that what one has measured the others
need not. Then the points of all frontiers are timed in lock-step with the dense model. The hypervolume is
the area that a frontier dominates, of latency as a share of the dense model's and of the metric's loss up to
``--worst-loss``; more is better.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from codesign.config import PASSES, SweepConfig, load_config, override
from codesign.frontier import Frontier, Point
from codesign.loop.finals import lock_step
from codesign.measure import Rig
from codesign.measurement import Measurement, Protocol
from codesign.pareto import hypervolume
from codesign.progress import progress_for
from codesign.sweep import run_sweep
from targets.target import find

DENSE = "bundles/all/dense"
"""Where a sweep leaves the uncompressed model."""


@dataclass(frozen=True)
class Row:
    """One set of passes.

    Attributes:
        speedup: of the fastest point within the loss that was asked for, over the dense model; 1 if
            there is none.
        loss: of that point, relative.
        hypervolume: see the module's docstring.
    """

    name: str
    passes: tuple[str, ...]
    points: int
    speedup: float
    loss: float
    hypervolume: float


@dataclass(frozen=True)
class Wanted:
    """How points are judged: losses of the metric, absolute or relative to the dense model's value."""

    metric: str
    max_loss: float
    worst_loss: float


def sweeps(
    config: SweepConfig, sets: Sequence[tuple[str, tuple[str, ...]]], folder: Path
) -> dict[str, Path]:
    """One sweep for each set: its name -> the folder of its run."""
    runs: dict[str, Path] = {}
    for name, passes in sets:
        output = folder / name.replace(" ", "-")
        own = override(config, passes=passes, output=output, records=folder / "records.sqlite")
        with progress_for(False) as progress:
            run_sweep(own, progress=progress)
        runs[name] = output
    return runs


def timed(config: SweepConfig, paths: Sequence[Path]) -> list[Measurement]:
    """All bundles in lock-step."""
    target = find(config.target, config.threads)
    protocol = Protocol(threads=config.threads)
    with progress_for(False) as progress, Rig(target, protocol) as rig:
        times, _ = lock_step(rig, replace(protocol, repeats=4), paths, None, progress)
    return times


def judged(
    name: str, passes: tuple[str, ...], points: Sequence[tuple[float, float]], wanted: Wanted
) -> Row:
    """A row from (share of the dense latency, loss) of each point."""
    within = [p for p in points if p[1] <= wanted.max_loss]
    best = min(within, default=(1.0, 0.0))
    pairs = [(share, -loss) for share, loss in points]
    area = hypervolume(pairs, (1.0, -wanted.worst_loss)) / wanted.worst_loss
    return Row(name, passes, len(points), 1 / best[0], best[1], area)


def ablate(
    config: SweepConfig,
    sets: Sequence[tuple[str, tuple[str, ...]]],
    folder: Path,
    wanted: Wanted,
) -> list[Row]:
    """Sweep with each set, time all frontiers together, judge them."""
    runs = sweeps(config, sets, folder)
    frontiers = {name: Frontier.read(run / "frontier.json") for name, run in runs.items()}
    first = next(iter(runs.values()))
    found: list[tuple[str, Point]] = [(n, p) for n, f in frontiers.items() for p in f.points]
    paths = [first / DENSE, *(runs[name] / point.bundle for name, point in found)]
    dense, *times = timed(config, paths)
    rows = []
    for name, passes in sets:
        reference = frontiers[name].baselines[0].quality[wanted.metric]
        points = [
            (time.seconds / dense.seconds, reference - point.quality[wanted.metric])
            for (own, point), time in zip(found, times, strict=True)
            if own == name
        ]
        rows.append(judged(name, passes, points, wanted))
    return rows


def parse_sets(given: Sequence[str], enabled: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """``NAME=pass pass`` or the name of a pass; by default each pass alone, and all together."""
    if not given:
        return [*((name, (name,)) for name in enabled), ("all", enabled)]
    sets = []
    for text in given:
        name, equals, passes = text.partition("=")
        alone = enabled if name == "all" else (name,)
        sets.append((name, tuple(passes.split()) if equals else alone))
    return sets


def main() -> None:
    """Run the sweeps, print the table, write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path, help="a sweep file")
    parser.add_argument("--set", action="append", default=[], help="NAME=PASS PASS ..., or a pass")
    parser.add_argument("--minutes", type=float, help="of each sweep")
    parser.add_argument("--measurements", type=int, help="of each sweep")
    parser.add_argument("--max-loss", type=float, default=0.005, help="absolute, of the metric")
    parser.add_argument("--worst-loss", type=float, default=0.1, help="where the area ends")
    parser.add_argument("--folder", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    config = override(
        load_config(given.config), minutes=given.minutes, measurements=given.measurements
    )
    sets = parse_sets(given.set, tuple(p for p in PASSES if p in config.passes))
    wanted = Wanted(config.goal.metric, given.max_loss, given.worst_loss)
    rows = ablate(config, sets, given.folder.resolve(), wanted)
    table = Table(title=f"{given.config.stem}, loss of {wanted.metric} at most {wanted.max_loss:g}")
    for heading in ("passes", "points", "x dense", "loss", "hypervolume"):
        table.add_column(heading, justify="left" if heading == "passes" else "right")
    for r in rows:
        figures = (f"{r.speedup:.2f}", f"{r.loss:.4f}", f"{r.hypervolume:.3f}")
        table.add_row(r.name, str(r.points), *figures)
    Console().print(table)
    if given.json:
        given.json.write_text(json.dumps([asdict(r) for r in rows], indent=2))


if __name__ == "__main__":
    main()
