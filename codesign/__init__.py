"""codesign finds the compressed versions of a trained model that are really fastest on a device.

    import codesign

    result = codesign.sweep(
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
    from codesign.api import sweep
    from codesign.bench import bench_bundle as bench
    from codesign.bundle import Bundle, open_bundle
    from codesign.compile import compile_model as compile
    from codesign.doctor import examine as doctor
    from codesign.errors import UserError
    from codesign.frontend import load
    from codesign.frontier import Frontier
    from codesign.report import redraw as report
    from codesign.runtime import Predictor, Runtime

__all__ = [
    "Bundle",
    "Frontier",
    "Predictor",
    "Runtime",
    "UserError",
    "bench",
    "compile",
    "doctor",
    "load",
    "open_bundle",
    "report",
    "sweep",
]

_WITHOUT_TVM = {
    "Bundle": ("codesign.bundle", "Bundle"),
    "Frontier": ("codesign.frontier", "Frontier"),
    "UserError": ("codesign.errors", "UserError"),
    "doctor": ("codesign.doctor", "examine"),
    "open_bundle": ("codesign.bundle", "open_bundle"),
    "report": ("codesign.report", "redraw"),
}
_WITH_TVM = {
    "Predictor": ("codesign.runtime", "Predictor"),
    "Runtime": ("codesign.runtime", "Runtime"),
    "bench": ("codesign.bench", "bench_bundle"),
    "compile": ("codesign.compile", "compile_model"),
    "load": ("codesign.frontend", "load"),
    "sweep": ("codesign.api", "sweep"),
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
    module, attribute = (_WITH_TVM | _WITHOUT_TVM).get(name, ("", ""))
    if not module:
        raise AttributeError(f"module 'codesign' has no attribute {name!r}")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
