"""One marked nest of loops, read as a product, and the tile instructions that compute it.

Registers 0 to 3 hold sums, 4 and 5 rows of the activations, 6 and 7 outputs of the weights, which lie
in memory as they are packed for other instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import tvm
import tvm_ffi
from tvm import s_tir, sym, tirx

from targets.errors import TargetError

TILES = "codesign.tiles"
"""Marks the outermost of the loops (block of outputs, run of groups if there are several, group of inputs,
row, output, input of the group) that are to become tile instructions; then the block of these."""

SIDE = 16
"""Rows of a tile, 32-bit sums in a row of it, and groups of inputs, four bytes each, in a row of it."""

GROUP_BYTES = 4

ROWS_IN, WEIGHTS_IN = 4, 6
"""The first registers of activations and of weights; those before them hold sums."""

_DOT = {"int32": "llvm.x86.tdpbusd", "float32": "llvm.x86.tdpbf16ps"}
"""The product of two tiles by the type of its sums."""


def groups_at_once(groups: int) -> int:
    """Groups that one instruction multiplies: the most that divide ``groups`` and fit into a tile."""
    return max(d for d in range(1, SIDE + 1) if groups % d == 0)


class Operand:
    """A buffer that a nest reads or writes, and which element of it belongs to a position in the nest.

    A position is (run of groups, group of inputs in it, row, output, input of the group).
    """

    def __init__(
        self,
        load: tvm.ir.TensorLoad | tirx.BufferStore,
        loops: Sequence[tirx.For],
        realize: s_tir.SBlockRealize,
        analyzer: sym.Analyzer,
    ) -> None:
        self.buffer = load.buffer if isinstance(load, tirx.BufferStore) else load.source
        self._indices = load.indices
        self._loops = [loop.loop_var for loop in loops]
        self._axes = [axis.var for axis in realize.block.iter_vars]
        self._values = realize.iter_values
        self._analyzer = analyzer

    def at(self, *position: int | tirx.Expr) -> list[tirx.Expr]:
        """Indices of the element of a position."""
        own = position[-(len(self._loops) - 1) :]  # without runs there is no loop over them
        place = [index(p) for p in (0, *own)]
        values = [substituted(v, self._loops, place) for v in self._values]
        found = [substituted(i, self._axes, values) for i in self._indices]
        return [self._analyzer.simplify(i) for i in found]

    def address(self, *position: int | tirx.Expr) -> tirx.Expr:
        """Where the element of a position lies."""
        return tirx.address_of(tirx.BufferLoad(self.buffer, self.at(*position)))

    def steps(self, *position: int) -> list[int]:
        """From the first element to that of a position, in each dimension. TypeError if it varies."""
        pairs = zip(self.at(*position), self.at(0, 0, 0, 0, 0), strict=True)
        return [int(self._analyzer.simplify(there - here)) for there, here in pairs]

    def distance(self, *position: int) -> int:
        """From the first element to that of a position, in elements of memory. TypeError if it varies."""
        total = 0
        for size, step in zip(self.buffer.shape, self.steps(*position), strict=True):
            total = total * int(size) + step
        return total


@dataclass(frozen=True)
class Nest:
    """The product ``sums[row, output] = sum of activations[row, group, i] * weights[group, output, i]``.

    Attributes:
        runs: stretches of groups of the activations, as a convolution has one for each row of its kernel.
        groups, rows, outputs, group: extents of its loops, the last of inputs of a group.
    """

    runs: int
    groups: int
    rows: int
    outputs: int
    group: int
    sums: Operand
    activations: Operand
    weights: Operand

    @classmethod
    def of(cls, loop: tirx.For, analyzer: sym.Analyzer) -> Nest:
        """Read a marked nest.

        Args:
            analyzer: knows the bounds of all loops.

        Raises:
            TargetError: it is no product, or does not lie in memory as tiles need it.
        """
        loops, inside = [loop], loop.body
        while isinstance(inside, tirx.For):
            loops.append(inside)
            inside = inside.body
        try:
            store = inside.block.body
            a, b = _load_in(store.value.b.a), _load_in(store.value.b.b)  # sum + a * b
            *runs, groups, rows, outputs, group = (int(lo.extent) for lo in loops[1:])
            operands = (Operand(x, loops, inside, analyzer) for x in (store, a, b))
            nest = cls(prod(runs), groups, rows, outputs, group, *operands)
            suited = nest.suited()
        except (AttributeError, TypeError, ValueError):
            suited = False
        if not suited:
            raise TargetError(
                "a marked nest is not a product that tiles can do",
                got=f"the loop over {loop.loop_var}",
                allowed="16 or 32 rows and outputs, whole in memory; groups of four bytes",
            )
        return nest

    def suited(self) -> bool:
        """True if everything lies as tiles need it, in the far corner of the nest too."""
        group, outputs = self.group, self.outputs
        last = (self.groups - 1, self.rows - 1, outputs - 1, group - 1)
        row = self.activations.distance(0, 0, 1, 0, 0)
        activations = last[0] * group + last[1] * row + last[3]
        weights = (last[0] * outputs + last[2]) * group + last[3]
        return (
            {self.rows, outputs} <= {SIDE, 2 * SIDE}
            and str(self.sums.buffer.dtype) in _DOT
            and self.activations.distance(0, 1, 0, 0, 0) == group
            and self.weights.distance(0, 1, 0, 0, 0) == outputs * group
            and self.weights.distance(0, 0, 0, 1, 0) == group
            and all(
                operand.distance(run, *last) == operand.distance(run, 0, 0, 0, 0) + distance
                for operand, distance in ((self.activations, activations), (self.weights, weights))
                for run in {0, self.runs - 1}
            )
        )

    def tiles(self) -> s_tir.SBlockRealize:
        """The product as tile instructions."""
        sums, region = self._sums()
        row = self.sums.steps(0, 0, 1, 0, 0).index(1)
        clear, store = [], []
        for h, v in product(range(self.rows // SIDE), range(self.outputs // SIDE)):
            clear.append(tile("llvm.x86.tilezero", 2 * h + v))
            place = [index(i) for i in self.sums.steps(0, 0, SIDE * h, SIDE * v, 0)]
            address = tirx.address_of(tirx.BufferLoad(sums, place))
            stride = sums.strides[row] * GROUP_BYTES
            store.append(tile("llvm.x86.tilestored64", 2 * h + v, address, stride))
        block = s_tir.SBlock(
            [],
            [],
            [region],
            "tiles",
            tirx.SeqStmt([*clear, self._reduction(), *store]),
            match_buffers=[s_tir.MatchBufferRegion(sums, region)],
            annotations={TILES: groups_at_once(self.groups)},
        )
        return s_tir.SBlockRealize([], True, block)

    def _reduction(self) -> tirx.For:
        """The loop over the inputs: each tile of weights and activations is loaded once."""
        groups = groups_at_once(self.groups)
        dot = _DOT[str(self.sums.buffer.dtype)]
        row_bytes = self.activations.distance(0, 0, 1, 0, 0) * GROUP_BYTES // self.group
        run, step = tirx.Var("run", "int64"), tirx.Var("step", "int64")
        body = []
        for v in range(self.outputs // SIDE):
            address = self.weights.address(run, step * groups, 0, SIDE * v, 0)
            body.append(load(WEIGHTS_IN + v, address, self.outputs * GROUP_BYTES))
        for h in range(self.rows // SIDE):
            address = self.activations.address(run, step * groups, SIDE * h, 0, 0)
            body.append(load(ROWS_IN + h, address, row_bytes))
            for v in range(self.outputs // SIDE):
                body.append(tile(dot, 2 * h + v, ROWS_IN + h, WEIGHTS_IN + v))
        count = index(self.groups // groups)
        steps = tirx.For(step, index(0), count, tirx.ForKind.SERIAL, tirx.SeqStmt(body))
        return tirx.For(run, index(0), index(self.runs), tirx.ForKind.SERIAL, steps)

    def _sums(self) -> tuple[tirx.Buffer, tirx.BufferRegion]:
        """The sums as a buffer of their own, and what it stands for, wherever that is put later."""
        extents = [1 + s for s in self.sums.steps(0, 0, self.rows - 1, self.outputs - 1, 0)]
        source = self.sums.buffer
        sums = tirx.decl_buffer(
            [index(e) for e in extents],
            source.dtype,
            "sums",
            strides=[tirx.Var(f"stride{i}", "int64") for i in range(len(extents))],
            scope=source.scope(),
            offset_factor=1,
        )
        first = self.sums.at(0, 0, 0, 0, 0)
        ranges = [
            tvm.ir.Range.from_min_extent(at, index(e)) for at, e in zip(first, extents, strict=True)
        ]
        return sums, tirx.BufferRegion(source, ranges)


def _load_in(factor: tirx.Expr) -> tvm.ir.TensorLoad:
    """The one element that a factor reads, however it is converted. ValueError if there are others."""
    found: list[tvm.ir.TensorLoad] = []
    tvm_ffi.structural_walk(factor, [(tvm.ir.TensorLoad, found.append)], order="post")
    (load,) = found
    return load


def call(name: str, *arguments: tirx.Expr) -> tirx.Evaluate:
    """A statement that runs an instruction by LLVM's name of it."""
    return tirx.Evaluate(tirx.call_llvm_intrin("void", name, *arguments))


def tile(name: str, *arguments: int | tirx.Expr) -> tirx.Evaluate:
    """A tile instruction; registers are given by number."""
    return call(name, *(tirx.IntImm("int8", a) if isinstance(a, int) else a for a in arguments))


def load(register: int, address: tirx.Expr, stride: int) -> tirx.Evaluate:
    """Load a register from rows ``stride`` bytes apart."""
    return tile("llvm.x86.tileloadd64", register, address, index(stride))


def index(value: int | tirx.Expr) -> tirx.Expr:
    """An int64 expression."""
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def substituted(
    expression: tirx.Expr, variables: Sequence[tirx.Var], values: Sequence[tirx.Expr]
) -> tirx.Expr:
    """``expression`` with a value for each variable."""

    def replace(var: tirx.Var) -> tirx.Expr:
        found = (x for v, x in zip(variables, values, strict=True) if v.same_as(var))
        return next(found, var)

    return tvm_ffi.structural_map(expression, (tirx.Var, replace))
