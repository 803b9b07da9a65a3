"""How well the latency model predicts: random candidates of a sweep, predicted from their kernels' records.

    python -m benchmarks.prediction runs/demo --count 20 --json prediction.json

Takes the options of the run's model, draws candidates at random (any mix of widths, heads, formats
and dropped layers), predicts each from the measured kernels and the calibration that the run's own
end-to-end measurements gave, then builds and measures it. The weights are not solved: latency does
not depend on their values.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from codesign.config import load_config, override
from codesign.device import this_device
from codesign.latency import agreement
from codesign.loop.blocks import Decision, blocks_of
from codesign.loop.costs import with_decision
from codesign.loop.tables import Space, space_of
from codesign.loop.workshop import Workshop
from codesign.measure import Rig
from codesign.measurement import Protocol
from codesign.prepare import Prepared, prepare
from codesign.progress import progress_for
from codesign.records import Records
from codesign.report import ReportData
from codesign.station import Station
from codesign.sweep import records_path
from passes.layers import drop_layers
from passes.model import Model
from targets.target import Target, find


@dataclass(frozen=True)
class Row:
    """One random candidate."""

    name: str
    predicted_ms: float
    median_ms: float
    interval_ms: tuple[float, float]


def random_model(prepared: Prepared, space: Space, target: Target, rng: random.Random) -> Model:
    """The model with random decisions; weights of the right shapes and structure."""
    model = prepared.model
    layers = prepared.sites.layers
    droppable = [layer for layer in layers if layer.droppable]
    gone = [layer for layer in droppable if rng.random() < 0.15][: len(layers) - 1]
    for layer in layers:
        if layer in gone:
            continue
        for block in blocks_of(layer):
            offers = space.offers[block.name]
            choice = Decision(
                rng.choice(offers.keeps),
                rng.choice(offers.first),
                rng.choice(offers.second),
                rng.choice(offers.core),
            )
            model = with_decision(model, block, choice, target)
    return drop_layers(model, gone)[0] if gone else model


def measure(config_path: Path, folder: Path, count: int, seed: int) -> list[Row]:
    """Predict, build and time ``count`` random candidates of a sweep that has been run."""
    config = override(load_config(config_path), output=folder)
    target = find(config.target, config.threads)
    prepared = prepare(config.model, dict(config.dims))
    known = ReportData.load(folder).calibration
    rng = random.Random(seed)
    rows: list[Row] = []
    with (
        progress_for(False) as progress,
        Records(records_path(config)) as records,
        Rig(target, Protocol(threads=config.threads, repeats=20)) as end_to_end,
        Rig(target, Protocol(threads=config.threads)) as rig,
        tempfile.TemporaryDirectory() as scratch,
    ):
        workshop = Workshop(
            Station(target, this_device(), rig), records, config.trials, records.path.parent / "traces",
            progress,
        )  # fmt: skip
        space = space_of(prepared.model, prepared.sites, target, config.passes)
        workshop.tune(space.book.known.values())
        progress.start("random candidates", count)
        for i in range(count):
            model = random_model(prepared, space, target, rng)
            built = workshop.build(model, Path(scratch) / f"r{i:02d}")
            (m,) = end_to_end.bundles([built.bundle.path])
            predicted = known.predict(built.kernel_seconds, built.calls)
            rows.append(
                Row(f"r{i:02d}", predicted * 1e3, m.seconds * 1e3, (m.lo * 1e3, m.hi * 1e3))
            )
            progress.step(f"{predicted * 1e3:.2f} ms predicted, {m.seconds * 1e3:.2f} measured")
    return rows


def main() -> None:
    """Print the table; write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished sweep")
    parser.add_argument("--config", type=Path, default=Path("examples/minilm.toml"))
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = measure(given.config, given.run.resolve(), given.count, given.seed)
    agreed = agreement([r.predicted_ms for r in rows], [r.median_ms for r in rows])
    table = Table(title=f"{len(rows)} random candidates")
    for heading in ("candidate", "predicted ms", "measured ms", "error"):
        table.add_column(heading, justify="right")
    for r in rows:
        error = r.predicted_ms / r.median_ms - 1
        table.add_row(r.name, f"{r.predicted_ms:.2f}", f"{r.median_ms:.2f}", f"{error:+.1%}")
    Console().print(table)
    print(
        f"median error {agreed.median_error:.2%}, worst {agreed.worst_error:.2%}, tau {agreed.tau:.3f}"
    )
    if given.json:
        given.json.write_text(json.dumps([asdict(r) for r in rows], indent=2))


if __name__ == "__main__":
    main()
