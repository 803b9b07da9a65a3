"""The yardstick of a sweep: the uncompressed model in ONNX Runtime, exported if need be."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codesign.frontend.source import call_function, find_source
from codesign.loop.onnx_baseline import Arrays, OnnxBaseline


def open_baseline(model: Any, sample: Arrays, threads: int, folder: Path) -> OnnxBaseline | str:
    """ONNX Runtime running the model, or why it cannot.

    Args:
        model: as given to the sweep: a path, ``module.py:function``, or (module, examples).
        sample: inputs to time with.
        threads: of ONNX Runtime.
        folder: of the run; the exported model is kept in it.
    """
    try:
        onnx = onnx_of(model, folder / "baseline")
        return OnnxBaseline(onnx, sample, threads, onnx.parent)
    except Exception as error:  # a baseline that fails must not cost the sweep
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


def onnx_of(model: Any, folder: Path) -> Path:
    """The model as an .onnx file: itself, or exported by PyTorch."""
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(model, str | Path):
        module, examples = model
        return _exported(module, examples, folder)
    source = find_source(model)
    if source.kind == "onnx":
        return source.path
    if source.kind == "python":
        module, examples = call_function(source)
        return _exported(module, examples, folder)
    import torch

    return _exported(torch.export.load(source.path), None, folder)


def _exported(module: Any, examples: Any, folder: Path) -> Path:
    import torch

    path = folder / "model.onnx"
    if path.exists():
        return path
    args: tuple[Any, ...] = () if examples is None or isinstance(examples, Mapping) else examples
    kwargs = dict(examples) if isinstance(examples, Mapping) else None
    for logger in ("torch.onnx", "onnxscript", "onnx_ir"):  # what they warn of concerns no user
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module, args, str(path), kwargs=kwargs, dynamo=True, verbose=False)
    return path
