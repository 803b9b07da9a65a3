"""Matrix products on AMX: the loops that a schedule marked become tile instructions.

A tile register holds up to 16 rows of 64 bytes; one instruction adds the product of two of them, groups
of four int8 or of two bfloat16 at a time, to a third of 16 x 16 sums of 32 bits (Intel 64 and IA-32
Architectures Software Developer's Manual, volume 1, chapter 18). A marked nest is an ordinary product,
right without this lowering but slow, so that its schedule is stored and replayed like any other.

No tensor intrinsic of TVM does this: they compare regions without the bounds of the loops around, so
that the last row, repeated beyond the end, never matches; and nothing but a pass over the whole function
can configure the registers once, which takes longer than multiplying two tiles.
"""

from __future__ import annotations

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import s_tir, sym, tirx

from targets.kernels.amx_nest import ROWS_IN, SIDE, TILES, WEIGHTS_IN, Nest, call, index
from targets.kernels.offsets import take_out_offsets


def lower_tiles(mod: tvm.IRModule) -> tvm.IRModule:
    """The module with every marked nest of its scheduled kernels as tile instructions.

    What `offsets` marked is done as well.

    Raises:
        TargetError: a marked nest is not a product that tiles can do.
    """
    mod = take_out_offsets(mod)
    marked = [
        (gv, func)
        for gv, func in mod.functions_items()
        if isinstance(func, tirx.PrimFunc) and _has(func.body, tirx.For)
    ]
    if not marked:
        return mod
    lowered = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
    for gv, func in marked:
        lowered[gv] = func.with_body(_configured(_lowered(func.body)))
    return lowered


def _lowered(body: tirx.Stmt) -> tirx.Stmt:
    """The marked nests as blocks of tile instructions, each with the groups that a tile of it holds."""
    loops: list[tirx.For] = []
    tvm_ffi.structural_walk(body, [(tirx.For, loops.append)], order="pre")
    analyzer = sym.Analyzer()
    for loop in loops:
        analyzer.bind(loop.loop_var, tvm.ir.Range.from_min_extent(loop.min, loop.extent))
    marked = [loop for loop in loops if TILES in loop.annotations]
    tiles = [Nest.of(loop, analyzer).tiles() for loop in marked]

    def lower(loop: tirx.For) -> tirx.Stmt:
        return next((t for m, t in zip(marked, tiles, strict=True) if m.same_as(loop)), loop)

    return tvm_ffi.structural_map(body, (tirx.For, lower))


def _configured(root: s_tir.SBlockRealize) -> s_tir.SBlockRealize:
    """The function's body with its tiles configured: on each thread, or once if there is one only."""
    found: list[int] = []

    def note(block: s_tir.SBlock) -> None:
        if TILES in block.annotations:
            found.append(int(block.annotations[TILES]))

    tvm_ffi.structural_walk(root, [(s_tir.SBlock, note)], order="pre")
    (groups,) = set(found)

    def around(loop: tirx.For) -> tirx.For:
        if loop.kind != tirx.ForKind.PARALLEL or not _has(loop.body, s_tir.SBlock):
            return loop
        body = _with_tiles(loop.body, groups)
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body)

    shared = tvm_ffi.structural_map(root, (tirx.For, around))
    if not shared.same_as(root):
        return shared
    old = root.block
    block = s_tir.SBlock(
        old.iter_vars,
        old.reads,
        old.writes,
        old.name_hint,
        _with_tiles(old.body, groups),
        alloc_buffers=old.alloc_buffers,
        annotations=old.annotations,
    )
    return s_tir.SBlockRealize(root.iter_values, root.predicate, block)


def _with_tiles(body: tirx.Stmt, groups: int) -> tirx.Stmt:
    """``body`` between the instructions that configure the registers and release them."""
    config = tirx.decl_buffer((8,), "int64", "config", scope="local")
    stores = [
        tirx.BufferStore(config, index(int(word)), [i])
        for i, word in enumerate(configuration(groups).view("<i8"))
    ]
    load = call("llvm.x86.ldtilecfg", tirx.address_of(tirx.BufferLoad(config, [0])))
    block = s_tir.SBlock(
        [], [], [], "configure", tirx.SeqStmt([*stores, load]), alloc_buffers=[config]
    )
    configure = s_tir.SBlockRealize([], True, block)
    return tirx.SeqStmt([configure, body, call("llvm.x86.tilerelease")])


def configuration(groups: int) -> NDArray[np.uint8]:
    """The 64 bytes that describe the registers, rows of activations holding ``groups`` groups of inputs."""
    palette = np.array([1], "<u8")
    rows, columns = np.full(16, SIDE, np.uint8), np.full(16, SIDE, np.uint8)
    columns[ROWS_IN:WEIGHTS_IN] = groups
    rows[WEIGHTS_IN:] = groups
    rows[8:] = columns[8:] = 0  # there are eight registers
    parts = (palette, np.zeros(1, "<u8"), 4 * columns.astype("<u2"), rows)
    return np.concatenate([part.view(np.uint8) for part in parts])


def _has(body: tirx.Stmt, kind: type[tirx.For] | type[s_tir.SBlock]) -> bool:
    """True if a node of that kind is marked."""
    found = False

    def visit(node: tirx.For | s_tir.SBlock) -> None:
        nonlocal found
        found = found or TILES in node.annotations

    tvm_ffi.structural_walk(body, [(kind, visit)], order="pre")
    return found
