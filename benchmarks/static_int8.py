"""Static against dynamic int8 end to end: MiniLM with every linear layer in int8, and attention too.

    python -m benchmarks.static_int8
    python -m benchmarks.static_int8 --method minmax --method mse --json static_int8.json

Dynamic: each row is quantised by its own range as it comes. Static: calibration fixed the scales, one
row of the table for each way to choose ranges. Both are solved by the same solver on the same
calibration texts, built into bundles, timed in turns with the float32 model (on one thread by
processor time, which leaves out what others ran meanwhile), and scored on the split that steers a
search and on the held-out one. The second table says where the time of both goes, by kernels measured
alone, and the last line what came out.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from codesign.candidate import Candidate, Choice
from codesign.config import SweepConfig, load_config
from codesign.device import this_device
from codesign.loop.bases import Base, Bases
from codesign.loop.candidates import Judge
from codesign.loop.finals import SWEEPS, lock_step
from codesign.loop.kernel_table import kernel_rows
from codesign.loop.request import SweepRequest
from codesign.loop.workshop import Built, Workshop
from codesign.machine import cores
from codesign.measure import Rig
from codesign.measurement import Measurement, Protocol, median, median_interval, summarize
from codesign.prepare import prepare
from codesign.progress import progress_for
from codesign.records import Records
from codesign.report import KernelRow
from codesign.runtime import Runtime
from codesign.station import Station
from codesign.sweep import SOLVER
from codesign.user_code import calibration_samples
from passes import int8, int8_attention, int8_static
from passes.int8_static import BEST, RANGES, Int8Static, Int8StaticConfig
from passes.sites import Sites
from targets.target import Target, find

CONFIG = Path("examples/minilm.toml")
METHODS = (*RANGES, BEST)
DENSE, DYNAMIC, STATIC = "fp32", "dynamic", "static"
MARGIN = 0.005
"""Absolute loss of the metric within which two models are as good as each other: on 1,000 queries, less
than the standard error of one of them."""

TURNS = 60
"""Times that each version is timed."""

KINDS = {
    "quantising alone": ("quantize", "pad_groups"),
    "linear layers": ("linear",),
    "attention": ("attention",),
    "normalisation": ("layer_norm",),
}
"""Kernels by the start of their names; what is fused into one counts to it."""

OTHERS = "others"


@dataclass(frozen=True)
class Row:
    """One version of the model.

    Attributes:
        latency_ms, interval_ms: median and 95 % interval, all versions timed in turns.
        over_dense, over_dynamic: median of their times over its own, turn by turn; more is faster.
        interval_over_dynamic: 95 %, of the latter.
        search, held_out: the metric on the two splits.
        output_error: relative squared error of the outputs over the calibration texts.
        kernels: calls of one inference.
        kinds: microseconds of its kernels measured alone, by what they do.
    """

    name: str
    latency_ms: float
    interval_ms: tuple[float, float]
    over_dense: float
    over_dynamic: float
    interval_over_dynamic: tuple[float, float]
    search: float
    held_out: float
    output_error: float
    kernels: int
    kinds: Mapping[str, float]


def versions(
    sites: Sites, target: Target, methods: Sequence[str], attention: bool = True
) -> dict[str, Candidate]:
    """The candidates by name, the uncompressed one first: whatever is offered goes to int8."""
    cores_ = [
        Choice(a.name, int8_attention.NAME)
        for a in sites.attentions
        if attention and int8_attention.choices(a, target)[0]
    ]
    dynamic = [s for s in sites.linears if int8.choices(s, target)[0]]
    found = {
        DENSE: Candidate(),
        DYNAMIC: Candidate.of([*cores_, *(Choice(s.name, int8.NAME) for s in dynamic)]),
    }
    for method in methods:
        config = Int8StaticConfig((method,))
        forms: list[Choice] = [*cores_]
        for site in sites.linears:
            offers = [f for f in int8_static.choices(site, target, config)[0] if f.density == 1]
            forms += [Choice(site.name, Int8Static.name, f.setting) for f in offers]
        found[f"{STATIC} {method}"] = Candidate.of(forms)
    return found


def ratio(slow: Measurement, fast: Measurement) -> tuple[float, tuple[float, float]]:
    """Median of the times of one over those of the other in the same turn, and its 95 % interval."""
    pairs = [s / f for s, f in zip(slow.samples, fast.samples, strict=True)]
    return median(pairs), median_interval(pairs)


def kinds(rows: Iterable[KernelRow]) -> dict[str, float]:
    """Microseconds of an inference by what the kernels do."""
    found = dict.fromkeys([*KINDS, OTHERS], 0.0)
    for row in rows:
        names = (kind for kind, starts in KINDS.items() if row.name.startswith(starts))
        found[next(names, OTHERS)] += row.median_us * row.count
    return found


def verdict(rows: Sequence[Row], metric: str) -> str:
    """Whether static beats dynamic in latency at the same quality, or what it lacks for that."""
    dynamic = next(r for r in rows if r.name == DYNAMIC)
    static = [r for r in rows if r.name.startswith(STATIC)]
    as_good = [r for r in static if r.search >= dynamic.search - MARGIN]
    if not as_good:
        best = max(static, key=lambda r: r.search)
        return (
            f"no static version is as good as dynamic int8: {best.name} has a {metric} of {best.search:.4f} "
            f"on the search split against {dynamic.search:.4f}"
        )
    best = max(as_good, key=lambda r: (r.over_dynamic, r.search))
    low, high = best.interval_over_dynamic
    figures = f"{best.over_dynamic:.3f}x ({low:.3f} to {high:.3f})"
    quality = (
        f"{metric} {best.search:.4f} against {dynamic.search:.4f} on the search split, "
        f"{best.held_out:.4f} against {dynamic.held_out:.4f} held out"
    )
    if low > 1:
        return (
            f"{best.name} beats dynamic int8 in latency, {figures}, at the same quality: {quality}"
        )
    worst = max(best.kinds, key=lambda k: best.kinds[k] - dynamic.kinds[k])
    lost = best.kinds[worst] - dynamic.kinds[worst]
    reason = f"{worst} takes {lost:+.0f} us more" if lost > 0 else "nothing takes longer"
    return f"{best.name} does not beat dynamic int8 for sure, {figures}: {reason}; {quality}"


def run(config: SweepConfig, folder: Path, methods: Sequence[str], attention: bool) -> list[Row]:
    """Solve, build, time and score all versions."""
    request, target = SweepRequest.of(config), find(config.target, config.threads)
    prepared = prepare(request.model, dict(config.dims))
    samples = calibration_samples(request.calibration, prepared.model.inputs)
    itself = Base(prepared.model, prepared.sites, find(config.target, cores()), samples)
    candidates = versions(prepared.sites, target, methods, attention)
    protocol, metric = Protocol(threads=config.threads), config.goal.metric
    with (
        progress_for(False) as progress,
        Records(folder / "records.sqlite") as records,
        Rig(target, protocol) as rig,
    ):
        traces = folder / "traces"
        workshop = Workshop(
            Station(target, this_device(), rig), records, config.trials, traces, progress
        )
        # only measurements of kernels are taken from earlier runs: models and scores are made anew
        judge = Judge(
            prepared, Bases([itself]), workshop, folder / "bundles", f"{SOLVER} {time.time_ns()}",
            metric,
        )  # fmt: skip
        progress.start("solve", 1)
        solved = judge.solve(list(candidates.values()))
        progress.step()
        built = [(c, *judge.build(c, solved.get(c.key))) for c in candidates.values()]
        scores = [
            [e.quality[metric] for e in judge.quality(built, scorer.function, scorer.tag)]
            for scorer in (request.search_quality, request.quality)
        ]
        paths = [b.bundle.path for _, b, _ in built]
        progress.start("latency in turns", 1)
        if config.threads == 1:
            times = in_turns(paths)
        else:
            repeats = replace(protocol, repeats=TURNS // SWEEPS)
            times = lock_step(rig, repeats, paths, None, progress)[0]
        progress.step()
        where = [kinds(kernel_rows("", b.kernels, workshop)) for _, b, _ in built]
    return [
        row_of(name, own, (times[0], times[1]), (search, held), (b, error or 0.0), kind)
        for name, own, search, held, (_, b, error), kind in zip(
            candidates, times, *scores, built, where, strict=True
        )
    ]


def in_turns(paths: Sequence[Path], turns: int = TURNS) -> list[Measurement]:
    """Processor time of bundles of one thread, each called once in every turn, in random order.

    Every timed call follows one that brings the weights back into the cache.
    """
    runtimes = [Runtime(path) for path in paths]
    inputs = [runtime.example() for runtime in runtimes]
    samples: list[list[float]] = [[] for _ in paths]
    rng = random.Random(0)
    for _ in range(turns):
        for i in rng.sample(range(len(paths)), len(paths)):
            runtimes[i].run(inputs[i])
            start = time.thread_time()
            runtimes[i].run(inputs[i])
            samples[i].append(time.thread_time() - start)
    return [summarize(s) for s in samples]


def row_of(
    name: str,
    own: Measurement,
    others: tuple[Measurement, Measurement],
    scores: tuple[float, float],
    built: tuple[Built, float],
    where: Mapping[str, float],
) -> Row:
    """A row from what was measured; ``others`` are the dense and the dynamic model."""
    (over_dense, _), (over_dynamic, interval) = (ratio(other, own) for other in others)
    return Row(
        name,
        own.seconds * 1e3,
        (own.lo * 1e3, own.hi * 1e3),
        over_dense,
        over_dynamic,
        interval,
        *scores,
        built[1],
        built[0].calls,
        where,
    )


def tables(rows: Sequence[Row], metric: str, title: str) -> list[Table]:
    """What came out, and where the time goes."""
    first = Table(title=title)
    headings = ("latency ms (95 %)", "x fp32", "x dynamic (95 %)", f"{metric} search",
                f"{metric} held out", "output error", "kernels")  # fmt: skip
    first.add_column("version")
    for heading in headings:
        first.add_column(heading, justify="right")
    for r in rows:
        (low, high), (slow, fast) = r.interval_ms, r.interval_over_dynamic
        first.add_row(
            r.name, f"{r.latency_ms:.2f} ({low:.2f} to {high:.2f})", f"{r.over_dense:.2f}",
            f"{r.over_dynamic:.3f} ({slow:.3f} to {fast:.3f})", f"{r.search:.4f}",
            f"{r.held_out:.4f}", f"{r.output_error:.2e}", str(r.kernels),
        )  # fmt: skip
    second = Table(title="kernels alone, us of one inference")
    second.add_column("version")
    for kind in rows[0].kinds:
        second.add_column(kind, justify="right")
    for r in rows:
        second.add_row(r.name, *(f"{us:.0f}" for us in r.kinds.values()))
    return [first, second]


def main() -> None:
    """Run, print the tables, write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, default=CONFIG, help="names model, data and quality")
    parser.add_argument("--method", action="append", default=[], help="; ".join(METHODS))
    parser.add_argument("--trials", type=int, default=6, help="schedules tried for each kernel")
    parser.add_argument("--no-attention", action="store_true", help="attention stays float32")
    parser.add_argument("--folder", type=Path, default=Path("runs/static_int8"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    config = replace(load_config(given.config), trials=given.trials)
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rows = run(config, folder, given.method or METHODS, not given.no_attention)
    console = Console(width=150)
    metric = config.goal.metric
    title = f"{this_device()}, {config.threads} thread(s), trials {config.trials}"
    for table in tables(rows, metric, title):
        console.print(table)
    console.print(verdict(rows, metric))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps([asdict(r) for r in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
