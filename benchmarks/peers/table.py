"""The result: rows for programs, a table and a verdict for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.peers.artifacts import Artifact
from benchmarks.peers.contestants import MODELS, Contestant
from benchmarks.peers.interleave import Sweeps
from benchmarks.peers.statistics import median, median_interval

Row = dict[str, Any]


def row(
    model: str,
    threads: int,
    contestant: Contestant,
    artifact: Artifact,
    loaded: Mapping[str, float],
    error: Mapping[str, float],
    sweeps: Sweeps,
) -> Row:
    """One contestant's result.

    ``error`` is the largest absolute difference of the last hidden state from PyTorch fp32, by the
    largest magnitude there; milliseconds, megabytes (MiB) and seconds as the names say.
    ``interval_ms`` holds the median with 95 % confidence. ``memory_mb`` is the process's peak while
    it loaded and ran, ``import_memory_mb`` the part that the import of the runtime alone took.
    """
    times = sweeps.of(contestant.name)
    real = MODELS[model].weights == "pretrained"
    return {
        "model": model,
        "weights": MODELS[model].weights,
        "runtime": contestant.runtime,
        "dtype": contestant.dtype,
        "threads": threads,
        "median_ms": median(times),
        "interval_ms": list(median_interval(times)),
        "error": error["relative"],
        "error_max_abs": error["max_abs"],
        "error_rms": error["rms"],
        "lowest_cosine": error["lowest_cosine"] if real else None,
        "memory_mb": loaded["peak_memory_mb"],
        "import_memory_mb": loaded["import_memory_mb"],
        "convert_s": artifact.seconds,
        "load_s": loaded["load_s"],
        "size_bytes": artifact.size_bytes,
        "how": contestant.how,
        "sweeps": len(times),
        "sweeps_discarded": sweeps.discarded,
        "quiet": sweeps.quiet,
        "samples_ms": times,
    }


def best(rows: Iterable[Row], ours: bool, dtype: str) -> Row | None:
    """The fastest row of ours or of the peers whose dtype begins with ``dtype``."""
    chosen = [
        r
        for r in rows
        if (r["runtime"] == "codesign") is ours
        and r["dtype"].startswith(dtype)
        and math.isfinite(r["median_ms"])
    ]
    return min(chosen, key=lambda r: r["median_ms"], default=None)


def verdict(rows: list[Row], sweeps: Sweeps) -> list[str]:
    """For each dtype, ours against the fastest peer, from blocks of the same sweep."""
    lines = []
    for dtype in ("fp32", "int8"):
        mine, peer = best(rows, True, dtype), best(rows, False, dtype)
        if mine is None or peer is None:
            continue
        names = [f"{r['runtime']} {r['dtype']}" for r in (mine, peer)]
        ratios = sweeps.ratios(names[0], names[1])
        low, high = median_interval(ratios)
        lines.append(
            f"{names[0]} takes {median(ratios):.3f} [{low:.3f}, {high:.3f}] of the time of "
            f"{names[1]}; error {mine['error']:.2g} against {peer['error']:.2g}"
        )
    return lines


def text(rows: list[Row]) -> str:
    """The table, fastest first within each dtype."""
    header = (
        f"{'runtime':<12} {'dtype':<12} {'median ms':>9} {'interval':>17} {'error':>8} "
        f"{'rms':>8} {'cosine':>7} {'MiB':>6} {'convert s':>9} {'load s':>6}  how"
    )
    ordered = sorted(rows, key=lambda r: (r["dtype"].split()[0], r["median_ms"]))
    return "\n".join([header, *(_line(r) for r in ordered)])


def _line(r: Row) -> str:
    low, high = r["interval_ms"]
    cosine = "-" if r["lowest_cosine"] is None else f"{r['lowest_cosine']:.4f}"
    return (
        f"{r['runtime']:<12} {r['dtype']:<12} {r['median_ms']:>9.2f} "
        f"{f'[{low:.2f}, {high:.2f}]':>17} {r['error']:>8.1e} {r['error_rms']:>8.1e} {cosine:>7} "
        f"{r['memory_mb']:>6.0f} {r['convert_s']:>9.1f} {r['load_s']:>6.2f}  {r['how']}"
    )
