"""Patterns where PatDNN has them and the sweep does not simply follow: 5x5, depthwise, the order of kernels.

    python -m benchmarks.pattern_extra
    python -m benchmarks.pattern_extra --json extra.json

One thread, batch 1, random weights; every way of a layer computes the same numbers as its first one.

* 5x5 convolutions keep 11 of 25 entries of a kernel, shared by a block of outputs, beside the dense kernel.
* Depthwise convolutions: the most that patterns could give. All channels have one pattern, and the code is
  made for it: its taps unrolled, no list, no branch between patterns, borders as in the dense kernel.
* Patterns of single kernels in three orders: as solved, kernels of equal patterns side by side within each
  output, and outputs of like patterns side by side as well (PatDNN's filter kernel reordering).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from math import gcd
from pathlib import Path
from statistics import geometric_mean

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import s_tir, te, tirx

from benchmarks.clean_time import Clock
from passes.solve.patterns import natural_entries
from targets.kernels.blocks import flow, new_schedule
from targets.kernels.cache import strip_bytes
from targets.kernels.conv import conv, pack_conv
from targets.kernels.conv_depthwise import conv_depthwise, pack_depthwise
from targets.kernels.conv_pattern import conv_pattern, pack_pattern
from targets.kernels.conv_sparse import conv_sparse, pack_conv_sparse
from targets.kernels.primfunc import dims, f32, prim_func
from targets.kernels.spaces import schedules
from targets.kernels.window import Window
from targets.target import Target, find

Arrays = Sequence[NDArray[np.generic]]
Kernel = tuple[str, list[s_tir.Schedule], Arrays]
"""(way, schedules of which the fastest counts, inputs)."""

WIDE = ((28, 64, 64), (28, 128, 128), (14, 256, 256))
"""(height and width, inputs, outputs) of 5x5 layers."""

DEPTHWISE = ((112, 64, 3), (56, 128, 3), (28, 256, 3), (14, 512, 3), (28, 256, 5), (14, 512, 5))
"""(height and width, channels, kernel)."""

SINGLE = ((28, 128, 128), (14, 256, 256))
"""3x3 layers with a pattern for each kernel."""

BLOCKS = (32, 16, 8)
PATTERNS = 8
TRIED = 4
TILES = ((2, 1), (2, 2), (4, 1), (4, 2), (7, 1), (7, 2))
"""Columns by vectors of channels that code made for one pattern is tried with."""


@dataclass(frozen=True)
class Row:
    """One way to compute one layer: thread time of a call, and how many times faster than the first way."""

    layer: str
    way: str
    median_ms: float
    gain: float
    clean: bool


def square(size: int, channels: int, kernel: int) -> Window:
    """The windows of a kernel on a padded image."""
    return Window(size, size, channels, (kernel, kernel), padding=(kernel // 2,) * 4)


def masks(rows: int, channels: int, taps: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """bool [rows, channels, taps]: one of PATTERNS patterns each."""
    kept = natural_entries((round(taps**0.5),) * 2)
    table = rng.random((PATTERNS, taps)).argsort(axis=1) < kept
    found: NDArray[np.bool_] = table[rng.integers(0, PATTERNS, (rows, channels))]
    return found


def wide(layer: tuple[int, int, int], target: Target) -> Iterator[list[Kernel]]:
    """A 5x5 layer: the dense kernel on pruned weights, and the sparse one, for each block."""
    size, inputs, outputs = layer
    window, rng = square(size, inputs, 5), np.random.default_rng(0)
    strip = strip_bytes(target)
    x = rng.standard_normal((1, size, size, inputs)).astype(np.float32)
    for nb in BLOCKS:
        mask = masks(outputs // nb, inputs, 25, rng).reshape(outputs // nb, -1)
        w = rng.standard_normal((outputs, inputs, 5, 5)).astype(np.float32)
        w *= mask.repeat(nb, axis=0).reshape(w.shape)
        values, index = pack_conv_sparse(w, mask, window, nb)
        dense = schedules(conv(1, window, outputs, target.block, strip), target, TRIED)
        func = conv_sparse(1, window, outputs, nb, index.shape[1], strip)
        sparse = schedules(func, target, TRIED)
        packed = pack_conv(w, window, target.block)
        name = f"11 of 25 by {nb}"
        yield [("dense", dense, (x, packed)), (name, sparse, (x, values, index))]


def depthwise(layer: tuple[int, int, int], target: Target) -> Iterator[list[Kernel]]:
    """A depthwise layer: the dense kernel, and code made for the one pattern of all its channels."""
    size, channels, kernel = layer
    window, rng = square(size, channels, kernel), np.random.default_rng(0)
    x = rng.standard_normal((1, size, size, channels)).astype(np.float32)
    mask = masks(1, 1, kernel**2, rng).reshape(kernel, kernel)
    w = rng.standard_normal((channels, 1, kernel, kernel)).astype(np.float32) * mask
    inputs = (x, pack_depthwise(w))
    dense = schedules(conv_depthwise(1, window), target, TRIED)
    func = one_pattern(window, mask)
    made = [schedule_pattern(func, c, v * target.lanes) for c, v in TILES]
    yield [("dense", dense, inputs), ("one pattern", made, inputs)]


def one_pattern(window: Window, mask: NDArray[np.bool_]) -> tirx.PrimFunc:
    """A depthwise convolution of only the taps of ``mask``, see ``conv_depthwise``."""
    top, left, *_ = window.padding
    x = te.placeholder(dims(1, window.height, window.width, window.channels), name="x")
    w = te.placeholder(dims(*window.kernel, window.channels), name="w")

    def value(b: tirx.Var, row: tirx.Var, column: tirx.Var, c: tirx.Var) -> tirx.Expr:
        def tap(r: int, s: int) -> tirx.Expr:
            h, v = row + r - top, column + s - left
            inside = tirx.all(h >= 0, h < window.height, v >= 0, v < window.width)
            return tirx.if_then_else(inside, x[b, h, v, c], f32(0)) * w[r, s, c]

        return reduce(lambda a, b: a + b, (tap(int(r), int(s)) for r, s in np.argwhere(mask)))

    shape = dims(1, window.out_height, window.out_width, window.channels)
    return prim_func([x, w, te.compute(shape, value, name="y")])


def schedule_pattern(func: tirx.PrimFunc, columns: int, width: int) -> s_tir.Schedule:
    """Columns by channels in registers, tiles within the image without a condition."""
    sch = new_schedule(func)
    _, row, column, channel = sch.get_loops(flow(sch)[-1].block)
    co, ci = sch.split(column, [None, columns])
    chunk, vector = sch.split(channel, [None, gcd(int(sch.get(channel).extent), width)])
    sch.reorder(row, co, chunk, ci, vector)
    for loop in (row, co):
        sch.annotate(loop, "pragma_loop_partition_hint", 1)
    sch.unroll(ci)
    sch.vectorize(vector)
    return sch


def single(layer: tuple[int, int, int], target: Target) -> Iterator[list[Kernel]]:
    """A 3x3 layer with a pattern for each kernel, all channels kept, in three orders."""
    size, inputs, outputs = layer
    window, rng = square(size, inputs, 3), np.random.default_rng(0)
    x = rng.standard_normal((1, size, size, inputs)).astype(np.float32)
    mask = masks(outputs, inputs, 9, rng)
    w = (rng.standard_normal(mask.shape) * mask).astype(np.float32).reshape(-1, inputs, 3, 3)
    values, channel, pattern, table = pack_pattern(w, mask.reshape(outputs, -1), window)
    patterns, taps = table.shape
    func = conv_pattern(1, window, outputs, inputs, patterns, taps, strip_bytes(target))
    tried = schedules(func, target, TRIED)
    order = pattern.argsort(axis=1, kind="stable")
    near = [np.take_along_axis(a, order, axis=1) for a in (channel, pattern)]
    by_pattern = (np.take_along_axis(values, order[..., None], axis=1), *near)
    counts = np.stack([(pattern == p).sum(axis=1) for p in range(len(table))])
    outs = np.lexsort(counts)
    yield [
        ("as solved", tried, (x, values, channel, pattern, table)),
        ("kernels by pattern", tried, (x, *by_pattern, table)),
        ("outputs too", tried, (x, *(a[outs] for a in by_pattern), table)),
    ]


def bound(
    sch: s_tir.Schedule, inputs: Arrays, target: Target
) -> tuple[Callable[[], object], NDArray[np.float32]]:
    """(a call, its result)."""
    kernel = tvm.compile(sch.mod, target=target.tvm())["main"]
    shape = [int(d) for d in sch.mod["main"].params[-1].shape]
    y = tvm.runtime.tensor(np.zeros(shape, np.float32))
    given = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in inputs]
    kernel(*given, y)
    return lambda: kernel(*given, y), y.numpy()


def measure(layer: str, kernels: list[Kernel], clock: Clock, seconds: float) -> Iterator[Row]:
    """The best schedule of every way; raises ValueError if one computes something else."""
    first, wanted = 0.0, None
    for way, tried, inputs in kernels:
        timings = []
        for sch in tried:
            call, y = bound(sch, inputs, clock.target)
            wanted = y if wanted is None else wanted
            same = np.sort(y.ravel()), np.sort(wanted.ravel())  # outputs may be in another order
            if not np.allclose(*same, atol=1e-3):
                raise ValueError(f"{layer}, {way}: not what {kernels[0][0]} computes")
            timings.append(clock.measure(call, 7, seconds))
        best = min(timings, key=lambda t: t.median)
        first = first or best.median
        yield Row(layer, way, best.median * 1e3, first / best.median, best.clean)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write JSON if asked to."""
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(prog="python -m benchmarks.pattern_extra")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--seconds", type=float, default=0.5, help="most time for one schedule")
    options = parser.parse_args(arguments)
    target = find("host")
    clock = Clock(target, time.thread_time)
    table = Table(title=f"{target.description}, {target}, peak {clock.peak_gflops:.0f} GFLOP/s")
    for heading in ("layer", "way", "ms", "gain"):
        table.add_column(heading)
    rows: list[Row] = []
    for kind, layers, make in (
        ("5x5", WIDE, wide), ("depthwise", DEPTHWISE, depthwise), ("single kernels", SINGLE, single)
    ):  # fmt: skip
        own: list[Row] = []
        for layer in layers:
            for kernels in make(layer, target):
                own += measure(
                    f"{kind} {'x'.join(map(str, layer))}", kernels, clock, options.seconds
                )
        for row in own:
            mark = "" if row.clean else " (d)"
            table.add_row(row.layer, row.way, f"{row.median_ms:.3f}{mark}", f"{row.gain:.2f}")
        for way in dict.fromkeys(r.way for r in own):
            mean = geometric_mean([r.gain for r in own if r.way == way])
            table.add_row(f"{kind}, geometric mean", way, "", f"{mean:.2f}", end_section=True)
        rows += own
    Console(width=100).print(table)
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
