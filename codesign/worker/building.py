"""Builds, in the child: scheduled functions become one shared library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
from tvm import tirx

from codesign.pipeline import finish
from targets.codegen import compile_functions, compile_module

Answer = tuple[Any, list[memoryview]]


def build_kernels(params: Mapping[str, Any], blobs: tuple[bytes, ...]) -> Answer:
    """Compile PrimFuncs into one library; those that do not compile are left out and told.

    Args:
        params: ``target`` (dict), ``out`` (path), ``symbols`` (names, one per blob).
        blobs: each function as JSON of ``tvm.ir.save_json``.

    Returns:
        ``{"errors": {symbol: text}}``.
    """
    target = tvm.target.Target(params["target"])
    functions: dict[str, tirx.PrimFunc] = {}
    errors: dict[str, str] = {}
    for symbol, blob in zip(params["symbols"], blobs, strict=True):
        try:
            functions[symbol] = tvm.ir.load_json(blob.decode()).with_attr("global_symbol", symbol)
        except Exception as error:
            errors[symbol] = f"{type(error).__name__}: {error}"[-2000:]
    library = _compile(functions, target, errors)
    if library is not None:
        _export(library, params["out"])
    return {"errors": errors}, []


def build_model(params: Mapping[str, Any], blobs: tuple[bytes, ...]) -> Answer:
    """Compile a lowered Relax module, all kernels scheduled, into a library for the VM.

    Args:
        params: ``target`` (dict), ``out`` (path).
        blobs: the module as JSON of ``tvm.ir.save_json``.
    """
    target = tvm.target.Target(params["target"])
    module = tvm.ir.load_json(blobs[0].decode())
    executable = compile_module(module, target, finish())
    _export(executable, params["out"])
    return {"stats": str(executable.stats())}, []


def _compile(
    functions: dict[str, tirx.PrimFunc], target: tvm.target.Target, errors: dict[str, str]
) -> Any:
    """All functions at once; if that raises, each alone to find the culprits, then the rest."""
    if not functions:
        return None
    try:
        return compile_functions(tvm.IRModule(functions), target)
    except Exception as error:
        if len(functions) == 1:
            errors[next(iter(functions))] = f"{type(error).__name__}: {error}"[-2000:]
            return None
    good = {
        symbol: function
        for symbol, function in functions.items()
        if _compile({symbol: function}, target, errors) is not None
    }
    return compile_functions(tvm.IRModule(good), target) if good else None


def _export(executable: Any, path: str) -> None:
    executable.export_library(path)
