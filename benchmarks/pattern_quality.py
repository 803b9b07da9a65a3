"""What sharing patterns among outputs costs in quality, and what it gains in time: the CNN on real digits.

    python -m benchmarks.pattern_quality
    python -m benchmarks.pattern_quality --json runs/pattern_quality.json

3x3 convolutions of 16 input channels and more keep 4 of 9 entries of each kernel, with and without
connectivity pruning, in patterns shared by 32, 16 or 8 outputs (parts of the target's register tile) or
chosen for each single kernel: those of one residual block, and all of them. (Of all of them, single kernels
are left out: a problem for each output takes the solver many minutes.) Each version is solved layer
by layer on calibration images, without any training, built, scored on the held-out images, and timed in
lock-step with the dense model.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from codesign.candidate import Candidate, Choice
from codesign.config import SweepConfig, load_config
from codesign.device import this_device
from codesign.loop.bases import Base, Bases
from codesign.loop.blocks import blocks_of
from codesign.loop.candidates import Judge
from codesign.loop.finals import lock_step
from codesign.loop.request import SweepRequest
from codesign.loop.workshop import Workshop
from codesign.machine import cores
from codesign.measure import Rig
from codesign.measurement import Protocol
from codesign.prepare import prepare
from codesign.progress import progress_for
from codesign.records import Records
from codesign.station import Station
from codesign.sweep import SOLVER
from codesign.user_code import calibration_samples
from passes import pattern
from passes.pattern import CONNECTIVITY, PatternConfig
from passes.sites import Sites
from targets.target import Target, find

CONFIG = Path("examples/digits_cnn.toml")
CHANNELS = (1.0, 1 / CONNECTIVITY)
"""Shares of the input channels that each block of outputs keeps."""


@dataclass(frozen=True)
class Row:
    """One version of the model.

    Attributes:
        layers: convolutions in patterns.
        speedup: over the dense model.
        output_error: relative squared error of the outputs over the calibration images.
        quality: the metrics on the held-out images.
    """

    name: str
    layers: int
    latency_ms: float
    speedup: float
    output_error: float
    quality: dict[str, float]


def versions(sites: Sites, target: Target) -> dict[str, Candidate]:
    """The candidates by name, the uncompressed one first."""
    linears = [[x for b in blocks_of(section) for x in b.linears] for section in sites.layers]
    offered = [own for own in linears if any(pattern.choices(x, target)[0] for x in own)]
    found = {"dense": Candidate()}
    for where, own, single in (
        ("one block", offered[0], True),
        ("all layers", [x for section in offered for x in section], False),
    ):
        config = PatternConfig(CHANNELS, single=single)
        made: dict[str, list[Choice]] = {}
        for site in own:
            for form in pattern.choices(site, target, config)[0]:
                choice = Choice(site.name, form.name, form.setting)
                made.setdefault(f"{where}, {form}", []).append(choice)
        found |= {name: Candidate.of(choices) for name, choices in made.items()}
    return found


def run(config: SweepConfig, folder: Path) -> list[Row]:
    """Solve, build, score and time all versions."""
    request, target = SweepRequest.of(config), find(config.target, config.threads)
    prepared = prepare(request.model, dict(config.dims))
    samples = calibration_samples(request.calibration, prepared.model.inputs)
    itself = Base(prepared.model, prepared.sites, find(config.target, cores()), samples)
    candidates = versions(prepared.sites, target)
    protocol = Protocol(threads=config.threads)
    with (
        progress_for(False) as progress,
        Records(folder / "records.sqlite") as records,
        Rig(target, protocol) as rig,
    ):
        traces = folder / "traces"
        workshop = Workshop(
            Station(target, this_device(), rig), records, config.trials, traces, progress
        )
        version = f"{SOLVER} {time.time_ns()}"  # models and scores are made anew
        judge = Judge(
            prepared, Bases([itself]), workshop, folder / "bundles", version, config.goal.metric
        )
        solved = judge.solve(list(candidates.values()))
        built = [(c, *judge.build(c, solved.get(c.key))) for c in candidates.values()]
        scores = judge.quality(built, request.quality.function, request.quality.tag)
        paths = [b.bundle.path for _, b, _ in built]
        times, _ = lock_step(rig, replace(protocol, repeats=4), paths, None, progress)
    return [
        Row(
            name,
            len(candidate),
            1e3 * taken.seconds,
            times[0].seconds / taken.seconds,
            error or 0.0,
            dict(score.quality),
        )
        for (name, candidate), (_, _, error), score, taken in zip(
            candidates.items(), built, scores, times, strict=True
        )
    ]


def table_of(rows: list[Row]) -> Table:
    """The rows as a table."""
    metrics = list(rows[0].quality)
    table = Table(title="3x3 convolutions in patterns, solved without training")
    for title in ("what", "layers", "ms", "x dense", "output error", *metrics):
        table.add_column(title, justify="left" if title == "what" else "right")
    for row in rows:
        quality = (f"{row.quality[m]:.2f}" for m in metrics)
        table.add_row(
            row.name, str(row.layers), f"{row.latency_ms:.3f}", f"{row.speedup:.2f}",
            f"{row.output_error:.2e}", *quality,
        )  # fmt: skip
    return table


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/pattern_quality"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    rows = run(load_config(CONFIG), given.folder)
    Console().print(table_of(rows))
    if given.json:
        given.json.write_text(json.dumps([asdict(r) for r in rows], indent=2))


if __name__ == "__main__":
    main()
