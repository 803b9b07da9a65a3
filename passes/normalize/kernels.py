"""Kernels that an importer writes itself although Relax has an operator for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx

from passes.normalize.clip import limited
from passes.normalize.graph import Graph
from passes.normalize.values import Value

OPERATORS: Mapping[type, Callable[[relax.Expr, relax.Expr], relax.Expr]] = {
    tirx.Max: relax.op.maximum,
    tirx.Min: relax.op.minimum,
}


def _call_tir(graph: Graph, call: relax.Call, args: list[Any]) -> Value | None:
    """The larger or the smaller of two tensors, of which one may be a number."""
    operands = args[1]
    make = _operator(graph.kernel(call.args[0])) if len(operands) == 2 else None
    if make is None:
        return None
    fields = call.args[1].fields
    return limited(graph, graph.typed(make(*fields)), list(operands))


def _operator(
    func: tirx.PrimFunc,
) -> Callable[[relax.Expr, relax.Expr], relax.Expr] | None:
    """The operator if the kernel's one statement applies it, place by place, to its parameters."""
    stores: list[tirx.BufferStore] = []
    tvm_ffi.structural_walk(func.body, [(tirx.BufferStore, stores.append)], order="post")
    if len(stores) != 1 or type(stores[0].value) not in OPERATORS:
        return None
    (store,) = stores
    for load, param in zip((store.value.a, store.value.b), list(func.params)[:2], strict=True):
        if not isinstance(load, tvm.ir.TensorLoad) or not load.source.same_as(param):
            return None
        here = len(load.indices) == len(store.indices) and all(
            i.same_as(j) for i, j in zip(load.indices, store.indices, strict=True)
        )
        if not here and len(load.indices):
            return None
    return OPERATORS[type(store.value)]


RULES: Mapping[str, Callable[..., Value | None]] = {"relax.call_tir": _call_tir}
