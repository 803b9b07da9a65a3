"""The kernels of a candidate, as the report shows them."""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import tirx

from codesign.loop.workshop import Workshop
from codesign.report import KernelRow


def kernel_rows(candidate: str, counts: Mapping[str, int], workshop: Workshop) -> list[KernelRow]:
    """One row per distinct kernel, the most expensive first."""
    known = {h: n for h, n in counts.items() if h in workshop.tuned}
    medians = {h: workshop.tuned[h].measurement.seconds for h in known}
    total = sum(n * medians[h] for h, n in known.items())
    rows = []
    for kernel, count in known.items():
        seconds = medians[kernel]
        func = workshop.names[kernel].func
        work = operations(func)
        rows.append(
            KernelRow(
                candidate,
                workshop.names[kernel].name,
                shapes(func),
                count,
                seconds * 1e6,
                work / seconds / 1e9 if work else None,
                count * seconds / total if total else 0.0,
            )
        )
    return sorted(rows, key=lambda r: -r.share)


def shapes(func: tirx.PrimFunc) -> str:
    """Shapes of the buffers of two and more dimensions, inputs first: ``1x128x384, 12x384x32``."""
    found = []
    for param in func.params:
        extents = getattr(param, "shape", ())
        if len(extents) > 1:
            found.append("x".join(str(int(d)) for d in extents))
    return ", ".join(found)


def operations(func: tirx.PrimFunc) -> float | None:
    """Operations of the unscheduled kernel, a multiply-add being two; None where it has no reduction."""
    from tvm.s_tir.analysis import estimate_tir_flops

    named = func.with_attr("global_symbol", "main")
    try:
        return float(estimate_tir_flops(tvm.IRModule({"main": named})))
    except Exception:  # TVM refuses what it cannot count
        return None
