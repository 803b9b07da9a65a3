"""What a schedule decided, whatever the target it was made for.

Equal decisions for one kernel are the same tile, order of loops and places of the blocks; how the loops are shared
among threads and which instruction of the target computes the tile are left out. So a schedule tuned on one thread,
or with another dot product, is known again.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.s_tir import Schedule

from codesign.frozen import digest

_TARGETS_OWN = frozenset({"Fuse", "Parallel", "Tensorize", "EnterPostproc"})

_OFFSETS = "codesign.offsets"
"""Annotations of SDOT's correction, which other dot products need not."""


def decisions(schedule: Schedule) -> str:
    """16 hex digits; equal for schedules of one kernel in which the same was decided."""
    trace = schedule.trace
    names: dict[Any, str] = {}
    steps: list[Any] = []
    for instruction in trace.insts:
        kind = str(instruction.kind.name)
        if kind == "Annotate" and str(instruction.attrs[0]).startswith(_OFFSETS):
            continue
        if kind in _TARGETS_OWN:
            if kind == "Fuse":  # a place within the fused loops is one within the innermost
                names[instruction.outputs[0]] = names.get(instruction.inputs[-1], "")
            continue
        decided = trace.get_decision(instruction)
        chosen = [] if decided is None else [_plain(decided)]
        if kind == "SampleCategorical" and decided is not None:
            chosen = [int(instruction.attrs[0][int(decided)])]  # the value, not its place
            attributes: list[Any] = []
        else:
            attributes = [_plain(a) for a in instruction.attrs]
        inputs = [names.get(i, _plain(i)) for i in instruction.inputs]
        steps.append([kind, inputs, attributes, chosen])
        count = len(instruction.outputs)
        for place, output in enumerate(instruction.outputs):
            # loops are counted from the innermost: sharing fuses outer ones
            place = place - count if kind == "GetLoops" else place
            names[output] = f"{len(steps)}:{place}"
    return digest(steps)[:16]


def _plain(value: Any) -> Any:
    """Numbers and texts as they are; a random variable that sharing made has no name of its own."""
    if isinstance(value, (tirx.IntImm, tirx.FloatImm)):
        return value.value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "__iter__") and not isinstance(value, tirx.Expr):
        return [_plain(v) for v in value]
    return "variable" if "RV" in type(value).__name__ else type(value).__name__
