"""Products by SDOT: what it leaves out is added once for each sum, behind the loop that makes the sums.

SDOT takes unsigned codes less 128, and 128 times the sum of the signed ones is to be added (`dot`). As a schedule
writes it, that is an addition for every product. It is the same for all rows of a register tile and does not
depend on the codes of inputs: here the sums of the signed codes get registers of their own, one more row of the
tile, and the additions come after the loop. A marked loop is right without this, only slower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.script import tirx as T

from targets.kernels.amx_nest import substituted
from targets.kernels.blocks import uses
from targets.kernels.dot import OFFSET, SDOT, signed_dot, weight_sums

OFFSETS = "codesign.offsets"
"""Marks the outermost loop over inputs of a register tile, with the outputs of a row of it; loops in it that are
not unrolled are over inputs too."""

ROWS = "codesign.offsets_rows"
"""Marks the loop over rows of the tile."""

_LANES = 4


def take_out_offsets(mod: tvm.IRModule) -> tvm.IRModule:
    """The module with the marked loops of its scheduled kernels done that way."""
    changed = {}
    for gv, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc):
            body = tvm_ffi.structural_map(func.body, (tirx.For, _taken_out))
            if not body.same_as(func.body):
                changed[gv] = func.with_body(body)
    if not changed:
        return mod
    return tvm.IRModule({**dict(mod.functions_items()), **changed}, attrs=mod.attrs)


def _taken_out(loop: tirx.For) -> tirx.Stmt:
    if OFFSETS not in loop.annotations:
        return loop
    outputs = int(loop.annotations[OFFSETS])
    sums = tirx.decl_buffer((outputs,), "int32", "offsets", scope="local")
    first = _first_row(loop)

    def short(block: s_tir.SBlock, store: tirx.BufferStore) -> tirx.Stmt:
        _, before, codes, inputs = store.value.args
        value = signed_dot(_LANES, before.a, codes, inputs)
        at = _column(block, store)
        add = tirx.BufferStore(sums, weight_sums(_LANES, tirx.BufferLoad(sums, [at]), codes), [at])
        own = tirx.BufferStore(store.buffer, value, store.indices)
        return tirx.SeqStmt([tirx.IfThenElse(first, add, None), own])

    zero = tirx.Broadcast(tirx.IntImm("int32", 0), _LANES)
    clear = [
        tirx.BufferStore(sums, zero, [_ramp(tirx.IntImm("int64", at))])
        for at in range(0, outputs, _LANES)
    ]
    product = _with_stores(loop, short)
    product = tirx.For(product.loop_var, product.min, product.extent, product.kind, product.body)
    ending = _ending(loop, sums)
    block = s_tir.SBlock(
        [], [], [], "offsets", tirx.SeqStmt([*clear, product, ending]), alloc_buffers=[sums]
    )
    return s_tir.SBlockRealize([], True, block)


def _first_row(loop: tirx.For) -> tirx.Expr:
    """The condition that a row is the first of the tile."""
    found: list[tirx.For] = []

    def visit(inner: tirx.For) -> None:
        if ROWS in inner.annotations:
            found.append(inner)

    tvm_ffi.structural_walk(loop, [(tirx.For, visit)], order="pre")
    (rows,) = found
    return rows.loop_var == rows.min


def _with_stores(
    loop: tirx.For, change: Callable[[s_tir.SBlock, tirx.BufferStore], tirx.Stmt]
) -> tirx.For:
    """The loop with every store of a product as ``change`` makes it of the store and the block around it."""

    def visit(block: s_tir.SBlock) -> s_tir.SBlock:
        def replace(store: tirx.BufferStore) -> tirx.Stmt:
            return change(block, store) if _is_product(store) else store

        body = tvm_ffi.structural_map(block.body, (tirx.BufferStore, replace))
        return s_tir.SBlock(
            block.iter_vars,
            block.reads,
            block.writes,
            block.name_hint,
            body,
            init=block.init,
            alloc_buffers=block.alloc_buffers,
            match_buffers=block.match_buffers,
            annotations=block.annotations,
        )

    return tvm_ffi.structural_map(loop, (s_tir.SBlock, visit))


def _is_product(store: tirx.BufferStore) -> bool:
    value = store.value
    return (
        isinstance(value, tvm.ir.Call)
        and len(value.args) == 4
        and isinstance(value.args[1], tirx.Add)
        and _calls_sdot(value)
    )


def _calls_sdot(call: tvm.ir.Call) -> bool:
    return int(call.args[0]) == int(T.llvm_lookup_intrinsic_id(SDOT))


def _column(block: s_tir.SBlock, store: tirx.BufferStore) -> tirx.Expr:
    """Where the outputs of a store are in their row of the tile, as a vector index."""
    (inside,) = store.indices
    return _ramp(_match(block, store).source.region[-1].min + inside.base)


def _match(block: s_tir.SBlock, store: tirx.BufferStore) -> s_tir.MatchBufferRegion:
    """What the buffer of a store stands for."""
    return next(match for match in block.match_buffers if match.buffer.same_as(store.buffer))


def _ramp(base: tirx.Expr) -> tirx.Expr:
    return tirx.Ramp(base, tirx.IntImm(str(base.ty.dtype), 1), _LANES)


def _ending(loop: tirx.For, sums: tirx.Buffer) -> tirx.Stmt:
    """What adds 128 times ``sums`` to every sum of a tile, once."""
    around: list[tirx.For] = []
    found: list[tuple[list[tirx.For], s_tir.SBlockRealize, tirx.BufferStore]] = []

    def collect(node: tirx.Stmt, realize: s_tir.SBlockRealize | None) -> None:
        if isinstance(node, tirx.For):
            around.append(node)
            collect(node.body, realize)
            around.pop()
        elif isinstance(node, tirx.SeqStmt):
            for part in node.seq:
                collect(part, realize)
        elif isinstance(node, s_tir.SBlockRealize):
            collect(node.block.body, node)
        elif realize is not None and isinstance(node, tirx.BufferStore) and _is_product(node):
            found.append((list(around), realize, node))

    collect(loop, None)
    (one,) = found
    return _addition(*one, sums)


def _addition(
    loops: Sequence[tirx.For],
    realize: s_tir.SBlockRealize,
    store: tirx.BufferStore,
    sums: tirx.Buffer,
) -> tirx.Stmt:
    """What adds to the sums that ``store`` writes, in loops of its own: those that tell where it does."""
    block = realize.block
    region = _match(block, store).source
    *outer, last = [part.min for part in region.region]
    (inside,) = store.indices
    place = [*outer, last + inside.base]
    axes = [axis.var for axis in block.iter_vars]
    place = [substituted(at, axes, realize.iter_values) for at in place]
    kept = [one for one in loops if any(uses(at, one.loop_var) for at in place)]
    own = [tirx.Var(one.loop_var.name, one.loop_var.ty) for one in kept]
    place = [substituted(at, [one.loop_var for one in kept], own) for at in place]
    *outer, column = place
    at = [*outer, _ramp(column)]
    left = tirx.BufferLoad(sums, [_ramp(column)]) * tirx.Broadcast(
        tirx.IntImm("int32", OFFSET), _LANES
    )
    body: tirx.Stmt = tirx.BufferStore(region.source, tirx.BufferLoad(region.source, at) + left, at)
    for var, one in zip(reversed(own), reversed(kept), strict=True):
        body = tirx.For(var, one.min, one.extent, tirx.ForKind.UNROLLED, body)
    return body
