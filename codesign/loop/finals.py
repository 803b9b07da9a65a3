"""The finalists: held-out quality, and latency in lock-step with the baselines."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codesign.loop.candidates import Judge, Judged
from codesign.loop.onnx_baseline import OnnxBaseline
from codesign.loop.request import Scorer
from codesign.measure import Rig
from codesign.measurement import Measurement, Protocol, summarize
from codesign.pareto import frontier
from codesign.progress import ProgressReporter
from codesign.records.entries import Evaluation

MOST = 12
"""Candidates that reach the final."""

SWEEPS = 6
"""Rounds in which every finalist and every baseline is timed once."""

EMULATED_SWEEPS = 3
"""The same where an emulator measures: its times are worth no more."""

PAUSE = 0.1
"""Seconds of rest around ONNX Runtime, whose threads spin on after a call."""


@dataclass(frozen=True)
class Final:
    """One finalist.

    Attributes:
        latency: in lock-step with all others.
        quality: on data that steered nothing.
    """

    judged: Judged
    latency: Measurement
    quality: Evaluation


@dataclass(frozen=True)
class Finals:
    """All finalists, the dense model, and ONNX Runtime if it could be had.

    Attributes:
        onnx: latency of ONNX Runtime fp32; None with the reason in ``why_no_onnx``.
    """

    dense: Final
    others: tuple[Final, ...]
    onnx: Measurement | None
    onnx_version: str = ""
    why_no_onnx: str = ""


def select(
    judged: Sequence[Judged], metric: str, most: int = MOST, sized: bool = False
) -> list[Judged]:
    """Who reaches the final: fronts of what the search saw, best first, until the places are full.

    The data that steers the search is small, so a candidate behind the front may be on it in truth.
    """
    left, chosen = list(judged), list[Judged]()
    while left and len(chosen) < most:
        sizes = [j.built.bundle.size_bytes if sized else 0 for j in left]
        points = [
            (j.latency.ratio, j.evaluation.quality[metric], size)
            for j, size in zip(left, sizes, strict=True)
        ]
        best = frontier(points, sized)
        if not best:  # what is left has no finite latency or quality
            break
        chosen += [left[i] for i in best]
        left = [j for i, j in enumerate(left) if i not in best]
    return chosen[:most]


def run_finals(
    judge: Judge,
    dense: Judged,
    judged: Sequence[Judged],
    scorer: Scorer,
    onnx: OnnxBaseline | str,
    progress: ProgressReporter,
    sized: bool = False,
) -> Finals:
    """Evaluate and time the finalists.

    Args:
        onnx: the running baseline, or why there is none.
        sized: size is an objective.
    """
    chosen = [dense, *select(judged, judge.metric, sized=sized)]
    progress.start("finals: held-out quality", len(chosen))
    scores = judge.quality(
        [(j.candidate, j.built, j.evaluation.output_error) for j in chosen],
        scorer.function,
        scorer.tag,
        progress.step,
    )
    protocol, turns = judge.workshop.rig.protocol, EMULATED_SWEEPS
    if not judge.workshop.station.emulated:
        protocol, turns = replace(protocol, repeats=4), SWEEPS
    paths = [j.built.bundle.path for j in chosen]
    baseline = onnx if isinstance(onnx, OnnxBaseline) else None
    times, other = lock_step(judge.workshop.rig, protocol, paths, baseline, progress, turns)
    finals = [Final(j, t, s) for j, t, s in zip(chosen, times, scores, strict=True)]
    return Finals(
        finals[0],
        tuple(finals[1:]),
        other,
        baseline.version if baseline else "",
        "" if baseline else str(onnx),
    )


def lock_step(
    rig: Rig,
    protocol: Protocol,
    paths: Sequence[Path],
    onnx: OnnxBaseline | None,
    progress: ProgressReporter,
    sweeps: int = SWEEPS,
) -> tuple[list[Measurement], Measurement | None]:
    """Time bundles and ONNX Runtime in turns; every figure is a median over all turns.

    Where several devices took turns, those of one count: what they measure is not to be mixed.
    """
    progress.start("finals: latency in lock-step", sweeps)
    samples: dict[str, list[list[float]]] = {}
    emulated = False
    other: list[float] = []
    rng = random.Random(0)
    was, rig.protocol = rig.protocol, protocol
    try:
        for turn in range(sweeps):
            first = rng.random() < 0.5
            if onnx is not None and first:
                other += _onnx_blocks(onnx, protocol.repeats)
            measured = rig.bundles(paths, seed=turn)
            device = str(measured[0].meta.get("device", ""))
            emulated = emulated or bool(measured[0].meta.get("emulated"))
            for mine, one in zip(
                samples.setdefault(device, [[] for _ in paths]), measured, strict=True
            ):
                mine += one.samples
            if onnx is not None and not first:
                other += _onnx_blocks(onnx, protocol.repeats)
            progress.step()
    finally:
        rig.protocol = was
    device, kept = max(samples.items(), key=lambda item: len(item[1][0]))
    told: dict[str, Any] = {"device": device} if device else {}
    told |= {"emulated": True} if emulated else {}
    return [summarize(s, **told) for s in kept], summarize(other) if other else None


def _onnx_blocks(onnx: OnnxBaseline, blocks: int) -> list[float]:
    time.sleep(PAUSE)
    onnx.seconds(1)
    found = [onnx.seconds(1) for _ in range(blocks)]
    time.sleep(PAUSE)
    return found
