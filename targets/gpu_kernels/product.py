"""The tuning space of all matrix products on a GPU, linear layers and convolutions alike.

A work item computes a tile of a few rows by one packed block of outputs, in registers: each weight that it loads
serves all its rows, each input all its outputs. Work items of a group lie side by side along outputs and rows,
so that they share what they read in the caches; the packed block gives each of them whole vectors of weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np
from tvm import s_tir, tirx

from targets.gpu import Family
from targets.gpu_kernels.default import bind_nest
from targets.gpu_kernels.group import across_and_down, bind_tiles
from targets.gpu_kernels.threads import gpu_of, vectorize_inner
from targets.gpu_kernels.tile import (
    STAGED_LANES,
    STEP_OPTIONS,
    Staging,
    clear,
    multiply,
    reads_groups,
    vectorize_loop,
)
from targets.kernels.blocks import (
    Block,
    Loop,
    Node,
    UnsuitedError,
    anchor_in,
    bring,
    decide,
    extent,
    flow,
    inline_single_use,
    new_schedule,
    written,
)
from targets.kernels.linear import ROW_SLACK, row_position
from targets.kernels.space import Apply
from targets.kernels.strip import STRIP_COLUMNS
from targets.target import Target

ROW_OPTIONS = (1, 2, 3, 4, 5, 6, 7, 8)

FREE_REGISTERS: dict[Family, int] = {"mali": 54, "adreno": 84, "opencl": 84}
"""32-bit registers of a work item for sums and operands. Mali's compiler has 64 and spills beyond (Arm, Mali
Offline Compiler User Guide); Adreno's are not published: what leaves room for several waves of 128."""

LOAD = 2.0
"""What loading a number costs, in multiply-adds."""

USUAL_UNITS, ITEMS_OF_UNIT = 4, 256
"""Compute units of a GPU that does not say how many it has, and the work items that keep one busy."""

STRIPS_FIRST, STRIPS_INLINE = 1, 0
STRIP_OPTIONS = (STRIPS_FIRST, STRIPS_INLINE)
"""Padded strips of an image are made by a kernel of their own, or padding is computed with each read."""

STAGED_OPTIONS = (0, 16, 32)


@dataclass(frozen=True)
class ProductTile:
    """One point of the space.

    Attributes:
        rows: rows of a work item; of a convolution, output columns.
        across, down: work items of a group along blocks of outputs, and along rows.
        step: inputs that are loaded at once.
        strips: one of STRIP_OPTIONS.
        staged: one of STAGED_OPTIONS, inputs that a group stages in local memory at a time; 0 for none.
    """

    rows: int
    across: int
    down: int
    step: int = 4
    strips: int = STRIPS_FIRST
    staged: int = 0


@dataclass(frozen=True)
class Parts:
    """The blocks of a product: what comes before it, itself, and what follows.

    Attributes:
        before: strips, sums over short stretches, sums of inputs.
        anchor: the product.
        rest: elementwise work behind it; the last one writes the result.
        at: which loop of the last one walks the rows of a tile.
        image: it is a convolution: rows of a tile are output columns.
    """

    before: list[Node]
    anchor: Node
    rest: list[Node]
    at: int
    image: bool


def parts(sch: s_tir.Schedule) -> Parts:
    """The blocks of a product; raises UnsuitedError if it is none."""
    nodes = flow(sch)
    position = anchor_in(nodes)
    anchor, rest = nodes[position], nodes[position + 1 :]
    if not rest or not rest[-1].output or any(node.reduces for node in rest):
        raise UnsuitedError("not a product followed by elementwise work")
    *lead, _ = (extent(sch, loop) for loop in sch.get_loops(rest[-1].block))
    image = len(written(sch, anchor.block).shape) == 5
    return Parts(nodes[:position], anchor, rest, 2 if image else row_position(lead), image)


def products(func: tirx.PrimFunc, target: Target) -> Iterator[Apply]:
    """All tiles worth trying for a product, the one expected to be fastest first."""
    for point in product_tiles(func, target):
        yield partial(tile_product, tile=point)


def product_tiles(func: tirx.PrimFunc, target: Target) -> list[ProductTile]:
    """The points of the space, the best guess first.

    A tile of r rows by n outputs loads r + n numbers for r n multiply-adds, so that more rows are better until
    registers run out, rows are left over, or too few work items keep the GPU busy.
    """
    sch = new_schedule(func)
    found = parts(sch)
    lead = [extent(sch, loop) for loop in sch.get_loops(found.rest[-1].block)]
    *_, blocks, nb = (int(d) for d in written(sch, found.anchor.block).shape)
    total, others = lead[found.at], lead[1] if found.image else 1
    inputs = inputs_in_a_row(sch, found)
    options = [s for s in STEP_OPTIONS if inputs % s == 0]
    steps = {r: step_that_fits(options, r, nb, func, target) for r in ROW_OPTIONS}
    fitting = [r for r in ROW_OPTIONS if r <= min(total, ROW_SLACK + 1) and steps[r]]
    other_tiles = prod(lead[:-1]) // total * blocks

    def cost(rows: int) -> float:
        items = other_tiles * -(-total // rows)
        return (rows * nb + LOAD * (rows + nb)) * max(1.0, items / busy_items(target))

    fitting.sort(key=cost)
    points = []
    for number, r in enumerate(fitting[:3]):
        shapes = across_and_down(blocks, others * -(-total // r), target)
        for across, down in shapes[: 3 if number == 0 else 1]:
            points.append(ProductTile(r, across, down, steps[r]))
    best = points[0]
    points += [replace(best, step=step) for step in options if step < best.step]
    if any(is_strip(sch, node) for node in found.before):
        points.append(replace(best, strips=STRIPS_INLINE))
    if gpu_of(target).family != "mali" and not found.before and not found.image:
        points += staged_tiles(sch, found, points[:5], total, inputs)
    return points


def staged_tiles(
    sch: s_tir.Schedule, found: Parts, points: Sequence[ProductTile], rows: int, inputs: int
) -> list[ProductTile]:
    """The first tile whose groups are all whole ones, with its inputs staged; on Mali local memory is no faster."""
    anchor = sch.get(found.anchor.block)
    blocks = int(written(sch, found.anchor.block).shape[-2])
    listed = any(str(r.source.dtype) == "int32" for r in anchor.reads)
    if listed or reads_groups(sch, found.anchor.block):
        return []
    for point in points:
        whole = rows % (point.rows * point.down) == 0 and blocks % point.across == 0
        lengths = [
            n
            for n in STAGED_OPTIONS[1:]
            if inputs % n == 0 and point.rows * n % (point.across * STAGED_LANES) == 0
        ]
        if whole and lengths:
            return [replace(point, staged=n) for n in lengths]
    return []


def busy_items(target: Target) -> int:
    """Work items that it takes to keep all of a GPU busy: a few waves on each unit."""
    gpu = gpu_of(target)
    return (gpu.units or USUAL_UNITS) * ITEMS_OF_UNIT


def inputs_in_a_row(sch: s_tir.Schedule, found: Parts) -> int:
    """Steps of the innermost loop over inputs."""
    short = [n for n in found.before if n.reduces and reads_whole(sch, n, found.anchor.block)]
    block = short[0].block if short else found.anchor.block
    along = [a for a in sch.get(block).iter_vars if a.iter_type == tirx.IterVar.CommReduce]
    return int(along[-2 if reads_groups(sch, block) else -1].dom.extent)


def step_that_fits(
    options: Sequence[int], rows: int, nb: int, func: tirx.PrimFunc, target: Target
) -> int:
    """The most inputs to load at once beside the sums of a tile; 0 if these alone fill the registers."""
    size = min(np.dtype(str(p.ty.dtype)).itemsize for p in func.params)
    narrow = size / 4 if size == 2 else 1.0  # two float16 share a register
    free = FREE_REGISTERS[gpu_of(target).family] - rows * nb
    return max((s for s in options if s * (nb + 1) * narrow <= free), default=0)


def is_strip(sch: s_tir.Schedule, node: Node) -> bool:
    """Whether a block makes padded strips of an image."""
    return STRIP_COLUMNS in sch.get(node.block).annotations


def tile_product(sch: s_tir.Schedule, tile: ProductTile) -> None:
    """Schedule a fused product."""
    found = parts(sch)
    decide(sch, STRIP_OPTIONS, tile.strips)
    last = found.rest[-1].block
    nb = int(written(sch, found.anchor.block).shape[-1])
    staged = inline_single_use(sch, found.rest[:-1])
    *lead, j = sch.get_loops(last)
    ro, ri = sch.split(lead[found.at], [None, decide(sch, ROW_OPTIONS, tile.rows)])
    jo, ji = sch.split(j, [None, nb])
    around = lead[: found.at]
    sch.reorder(*around, ro, jo, ri, ji)
    for node in reversed(staged):
        bring(sch, node.block, ri)
    sums = bring(sch, found.anchor.block, jo)
    if found.image:  # work items of a group lie along both dimensions of the image
        ro = sch.fuse(around.pop(), ro)
    item = bind_tiles(sch, around, ro, jo, tile.across, tile.down)
    for node in staged:
        vectorize_inner(sch, node.block)
    sch.unroll(ri)
    vectorize_inner(sch, last)
    place_product(sch, found, sums, item, tile)
    place_before(sch, found, tile.strips)


def place_product(
    sch: s_tir.Schedule,
    found: Parts,
    sums: tuple[list[Loop], list[Loop]],
    item: Loop,
    point: ProductTile,
) -> None:
    """Order the loops of the product, brought into a work item; with it go sums over short stretches."""
    anchor = found.anchor.block
    short = [n for n in found.before if n.reduces and reads_whole(sch, n, anchor)]
    spatial, reduction = sums
    tile = spatial[-3:]
    if not short:
        decide(sch, STAGED_OPTIONS, point.staged)
        staging = Staging(point.staged, point.across, point.down) if point.staged else None
        multiply(sch, anchor, item, tile, reduction, point.step, staging)
        return
    if len(short) > 1:
        raise UnsuitedError("a product of more than one kind of sums")
    row, o, j = tile
    sch.reorder(*reduction, row, o, j)
    for loop in (row, o):
        sch.unroll(loop)
    vectorize_loop(sch, j)
    clear(sch, anchor, item, reduction[0])
    inner, shorter = bring(sch, short[0].block, reduction[-1])
    if not ends_alike(written(sch, short[0].block), written(sch, anchor)):
        del inner[-2]  # the group of a coded weight, between blocks and outputs
    multiply(sch, short[0].block, reduction[-1], inner[-3:], shorter, point.step)


def ends_alike(longer: tirx.Buffer, shorter: tirx.Buffer) -> bool:
    """Whether the last dimensions of a buffer are those of another one."""
    of = [[int(d) for d in buffer.shape] for buffer in (longer, shorter)]
    return of[0][-len(of[1]) :] == of[1]


def reads_whole(sch: s_tir.Schedule, node: Node, anchor: Block) -> bool:
    """Whether a block makes as many numbers for each sum of the product as that adds up."""
    return len(written(sch, node.block).shape) > len(written(sch, anchor).shape)


def place_before(sch: s_tir.Schedule, found: Parts, strips: int) -> None:
    """What a product reads besides its inputs: kernels of their own, or inlined."""
    for node in found.before:
        if reads_whole(sch, node, found.anchor.block):
            continue
        if is_strip(sch, node) and strips == STRIPS_INLINE:
            sch.compute_inline(node.block)
        else:
            bind_nest(sch, node, 64)
