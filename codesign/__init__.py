"""codesign finds the compressed versions of a trained model that are really fastest on a device.

    import codesign

    result = codesign.sweep_model(
        (module, example_inputs), quality=score, calibration=batches, metric="accuracy"
    )
    for point in result.frontier.points:
        print(point.latency_ms, point.quality, point.bundle)

Everything is imported when it is first used: the records, the report and the doctor work without
TVM.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from codesign.versions import require, wrong

if TYPE_CHECKING:
    from codesign.api import sweep_model
    from codesign.bench import bench_bundle
    from codesign.bundle import Bundle, open_bundle
    from codesign.compile import compile_model
    from codesign.doctor import examine
    from codesign.errors import UserError
    from codesign.frontend import load
    from codesign.frontier import Frontier
    from codesign.report import redraw
    from codesign.runtime import Predictor, Runtime

__all__ = [
    "Bundle",
    "Frontier",
    "Predictor",
    "Runtime",
    "UserError",
    "bench_bundle",
    "compile_model",
    "examine",
    "load",
    "open_bundle",
    "redraw",
    "sweep_model",
]

_WITHOUT_TVM = {
    "Bundle": "codesign.bundle",
    "Frontier": "codesign.frontier",
    "UserError": "codesign.errors",
    "examine": "codesign.doctor",
    "open_bundle": "codesign.bundle",
    "redraw": "codesign.report",
}
_WITH_TVM = {
    "Predictor": "codesign.runtime",
    "Runtime": "codesign.runtime",
    "bench_bundle": "codesign.bench",
    "compile_model": "codesign.compile",
    "load": "codesign.frontend",
    "sweep_model": "codesign.api",
}

if wrong():
    warnings.warn(
        "codesign: this version of apache-tvm or apache-tvm-ffi does not work; run `codesign doctor`",
        RuntimeWarning,
        stacklevel=2,
    )


def __getattr__(name: str) -> Any:
    if name in _WITH_TVM:
        require()
    module = (_WITH_TVM | _WITHOUT_TVM).get(name)
    if module is None:
        raise AttributeError(f"module 'codesign' has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
