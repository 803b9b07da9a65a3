"""Our kernels against the machine's own speed limit.

    python -m benchmarks.kernels --json kernels.json
    python -m benchmarks.kernels --threads 2 --shapes minilm --quick

The limit is a loop of multiply-adds that never leaves the registers, measured again beside every
kernel. ``gops`` counts useful operations: a sparse kernel's are those of the weights it keeps.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.clean_time import Clock
    from benchmarks.kernel_cases import Case
    from targets.target import Target


@dataclass(frozen=True)
class Row:
    """One kernel on one shape.

    Attributes:
        median_ms, interval_ms: of a call, and the 95 % confidence interval of the median.
        error: largest deviation from float64 NumPy by its largest magnitude.
        gops: thousand million useful operations a second; None where operations say nothing.
        share_of_peak: by what registers alone reach with the same instruction.
        gbytes_per_s: bytes of inputs and outputs, each counted once.
        samples, disturbed: calls counted and not counted; see ``benchmarks.clean_time``.
    """

    kernel: str
    shape: str
    model: str
    runtime: str
    dtype: str
    threads: int
    target: str
    median_ms: float
    interval_ms: tuple[float, float]
    error: float
    gops: float | None
    share_of_peak: float | None
    gbytes_per_s: float
    samples: int
    disturbed: int
    clean: bool


def measure_case(case: Case, model: str, target: Target, clock: Clock, quick: bool) -> Row:
    """Build the best guess of a kernel's schedules, check it, time it."""
    import numpy as np
    import tvm

    from targets.kernels.spaces import schedules

    mod = schedules(case.func, target)[0].mod
    kernel = tvm.compile(mod, target=target.tvm())["main"]
    outputs = [tvm.runtime.tensor(np.zeros(shape, dtype)) for shape, dtype in case.outputs]
    arguments = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in case.inputs] + outputs
    call: Callable[[], object] = lambda: kernel(*arguments)  # noqa: E731
    timing = clock.measure(call, 7 if quick else 31, 3 if quick else 15)
    got = outputs[0].numpy()[..., : case.expected.shape[-1]].astype(np.float64)
    error = np.abs(got - case.expected).max() / np.abs(case.expected).max()
    gops = case.operations / timing.median / 1e9 if case.operations else None
    return Row(
        kernel=case.kernel,
        shape=case.shape,
        model=model,
        runtime="codesign",
        dtype=case.dtype,
        threads=target.threads,
        target=target.name,
        median_ms=timing.median * 1e3,
        interval_ms=(timing.interval[0] * 1e3, timing.interval[1] * 1e3),
        error=float(error),
        gops=gops,
        share_of_peak=None,
        gbytes_per_s=case.moved / timing.median / 1e9,
        samples=len(timing.samples),
        disturbed=timing.disturbed,
        clean=timing.clean,
    )


def measure_all(
    models: list[str], target: Target, quick: bool
) -> tuple[list[Row], dict[str, float]]:
    """(rows, peak by dtype in thousand million operations a second)."""
    from dataclasses import replace

    from rich.progress import track

    from benchmarks.clean_time import Clock, vnni_call
    from benchmarks.kernel_cases import cases

    clock = Clock(target)
    makers: Iterator[tuple[str, Callable[[], Case]]]
    makers = ((m, make) for m in models for make in cases(m, target.block))
    rows = []
    for model, make in track(list(makers), "measuring", disable=not sys.stderr.isatty()):
        rows.append(measure_case(make(), model, target, clock, quick))
    peaks = {"float32": clock.peak_gflops}
    if target.has_vnni:
        call, operations = vnni_call(target)
        timing = clock.measure(call, 31, 10)
        peaks["int8"] = operations / min(timing.samples) / 1e9
    rows = [
        replace(r, share_of_peak=r.gops / peaks[r.dtype]) if r.gops and r.dtype in peaks else r
        for r in rows
    ]
    return rows, peaks


def print_table(rows: list[Row], peaks: dict[str, float], target: Target) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table

    limits = ", ".join(f"{dtype} {peak:.0f} GOP/s" for dtype, peak in peaks.items())
    table = Table(
        title=f"{target.description}, {target}, peak {limits}",
        caption="median with its 95 % interval; calls beside a disturbed peak loop are not counted",
    )
    for name in (
        "model",
        "kernel",
        "shape",
        "dtype",
        "ms",
        "interval",
        "GOP/s",
        "of peak",
        "error",
    ):
        table.add_column(name, justify="left" if name in ("model", "kernel") else "right")
    for r in rows:
        low, high = r.interval_ms
        share = "" if r.share_of_peak is None else f"{r.share_of_peak:.1%}"
        gops = "" if r.gops is None else f"{r.gops:.1f}"
        mark = "" if r.clean else " (disturbed)"
        interval = f"{low:.4f}-{high:.4f}{mark}"
        cells = (f"{r.median_ms:.4f}", interval, gops, share, f"{r.error:.1e}")
        table.add_row(r.model, r.kernel, r.shape, r.dtype, *cells)
    console = Console()
    Console(width=max(console.width, 120)).print(table)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target", default="host")
    parser.add_argument("--shapes", nargs="+", default=["minilm", "bert-base"])
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    options = parser.parse_args(arguments)
    # The pools of TVM and of NumPy's BLAS read these when they are first loaded.
    os.environ["TVM_NUM_THREADS"] = str(options.threads)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"

    from benchmarks.kernel_cases import ENCODERS
    from targets.errors import TargetError
    from targets.target import find

    unknown = [s for s in options.shapes if s not in ENCODERS]
    if unknown:
        parser.error(f"unknown shapes {', '.join(unknown)}; known: {', '.join(ENCODERS)}")
    try:
        target = find(options.target, options.threads)
    except TargetError as error:
        print(error, file=sys.stderr)
        return 2
    if options.threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows, peaks = measure_all(options.shapes, target, options.quick)
    print_table(rows, peaks, target)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
