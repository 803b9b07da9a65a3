"""Convolutions by themselves: dense and pruned, beside ONNX Runtime and the machine's own speed limit.

    python -m benchmarks.conv_layers --threads 1
    python -m benchmarks.conv_layers --quick --models resnet-18 --json conv.json

Every distinct 3x3 layer with stride 1 of VGG-16 and ResNet-18, batch 1. *Pattern* pruning keeps 4 of the
9 positions of a kernel; *connectivity* pruning on top keeps one input channel in 3.6 (PatDNN, Niu et al.
2020). A format is shared by a block of outputs, or each kernel has a pattern of its own. What is timed
is one layer, called again and again in turn with the others of its row.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.clean_time import Clock
    from benchmarks.conv_cases import Contestant
    from targets.target import Target


@dataclass(frozen=True)
class Row:
    """One way to compute one layer.

    Attributes:
        layer: height x width x inputs -> outputs.
        way: see ``benchmarks.conv_cases``.
        median_ms, interval_ms: of a call, and the 95 % confidence interval of the median; with one
            thread of its processor time, so that what other programs took in between is left out.
        best_ms: the fastest call.
        error: largest deviation from float64 by its largest magnitude, on some rows of the image.
        share_of_peak: operations of the weights that are kept, by what registers alone reach.
        over_dense, over_onnxruntime: how many times faster, by medians.
    """

    model: str
    layer: str
    way: str
    threads: int
    target: str
    median_ms: float
    interval_ms: tuple[float, float]
    best_ms: float
    error: float
    share_of_peak: float
    over_dense: float
    over_onnxruntime: float
    samples: int
    clean: bool


def measure_layer(
    model: str, layer: tuple[int, int, int], target: Target, clock: Clock, quick: bool
) -> list[Row]:
    """All ways to compute one layer, in turn."""
    from benchmarks.conv_cases import DENSE, ONNXRUNTIME, contestants
    from benchmarks.peers.statistics import median, median_interval

    found: list[Contestant] = list(contestants(layer, target))
    samples: dict[str, list[float]] = {c.way: [] for c in found}
    clean = {c.way: True for c in found}
    for _ in range(3 if quick else 12):
        for contestant in found:
            timing = clock.measure(contestant.call, 3, 0.3 if quick else 1.0)
            samples[contestant.way] += timing.samples
            clean[contestant.way] &= timing.clean
    medians = {way: median(times) for way, times in samples.items()}
    size, inputs, outputs = layer
    rows = []
    for c in found:
        low, high = median_interval(samples[c.way])
        rows.append(
            Row(
                model=model,
                layer=f"{size}x{size}x{inputs}->{outputs}",
                way=c.way,
                threads=target.threads,
                target=target.name,
                median_ms=medians[c.way] * 1e3,
                interval_ms=(low * 1e3, high * 1e3),
                best_ms=min(samples[c.way]) * 1e3,
                error=c.error,
                share_of_peak=c.operations / medians[c.way] / 1e9 / clock.peak_gflops,
                over_dense=medians[DENSE] / medians[c.way],
                over_onnxruntime=medians[ONNXRUNTIME] / medians[c.way],
                samples=len(samples[c.way]),
                clean=clean[c.way],
            )
        )
    return rows


def print_tables(rows: list[Row], peak: float, target: Target) -> None:
    """One table of all rows, one of geometric means."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console = Console(width=max(console.width, 120))
    table = Table(
        title=f"{target.description}, {target}, peak {peak:.0f} GFLOP/s",
        caption="medians; (d): never seen with the processor at its full speed",
    )
    for name in ("layer", "way", "ms", "of peak", "x dense", "x ONNX Runtime", "error"):
        table.add_column(name, justify="left" if name in ("layer", "way") else "right")
    for row in rows:
        ms = f"{row.median_ms:.3f}" + ("" if row.clean else " (d)")
        cells = (f"{row.share_of_peak:.1%}", f"{row.over_dense:.2f}", f"{row.over_onnxruntime:.2f}")
        table.add_row(row.layer, row.way, ms, *cells, f"{row.error:.0e}")
    console.print(table)
    means = Table(title="geometric means over layers")
    for name in ("model", "way", "x dense", "x ONNX Runtime"):
        means.add_column(name)
    for model in dict.fromkeys(r.model for r in rows):
        for way in dict.fromkeys(r.way for r in rows):
            own = [r for r in rows if (r.model, r.way) == (model, way)]
            if own:
                dense = geometric_mean([r.over_dense for r in own])
                peer = geometric_mean([r.over_onnxruntime for r in own])
                means.add_row(model, way, f"{dense:.2f}", f"{peer:.2f}")
    console.print(means)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conv_layers", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target", default="host")
    parser.add_argument("--models", nargs="+", default=["vgg-16", "resnet-18"])
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    options = parser.parse_args(arguments)
    # The pools of TVM and of PyTorch read these when they are first loaded.
    os.environ["TVM_NUM_THREADS"] = str(options.threads)
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

    from rich.progress import track

    from benchmarks.clean_time import Clock
    from benchmarks.conv_cases import LAYERS
    from targets.errors import TargetError
    from targets.target import find

    unknown = [m for m in options.models if m not in LAYERS]
    if unknown:
        parser.error(f"unknown models {', '.join(unknown)}; known: {', '.join(LAYERS)}")
    try:
        target = find(options.target, options.threads)
    except TargetError as error:
        print(error, file=sys.stderr)
        return 2
    if options.threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    # One thread's own processor time: some layers take longer than a time slice.
    clock = Clock(target, time.thread_time if options.threads == 1 else time.perf_counter)
    layers = [(model, layer) for model in options.models for layer in LAYERS[model]]
    rows: list[Row] = []
    for model, layer in track(layers, "measuring", disable=not sys.stderr.isatty()):
        rows += measure_layer(model, layer, target, clock, options.quick)
    print_tables(rows, clock.peak_gflops, target)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
