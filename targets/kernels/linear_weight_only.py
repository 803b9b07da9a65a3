"""Linear layers that read their weights as 8- or 4-bit codes and compute in float32.

For few rows a dense layer waits for its weights to come from memory; here they are a quarter or an
eighth of the bytes and become float32 in registers. Codes of a *group* of inputs share, per output,
a scale and a zero point: ``w = (code - zero) * scale``. Sums run over the codes of a group as they
are; scale and zero point come in once a group, the latter with the sum of the group's inputs.

Decoding must cost no more than the multiply-add that follows. A byte is widened and converted. Eight
4-bit codes share a 32-bit lane, and each goes into the top of the mantissa of a float, as
``1 + code / 16``: a shift and one bitwise operation. The 1 is part of the zero point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.errors import TargetError
from targets.kernels.linear import accumulated, accumulator_shape, input_index, row_position
from targets.kernels.primfunc import axis, dims, f32, family, prim_func

FAMILY_NAME = "linear_weight_only"

WORD = 8
"""4-bit codes in a lane of 32 bits, the first in the lowest bits."""

_SHIFT, _MASK, _ONE = 19, 0x00780000, 0x3F800000
"""Top of a float's mantissa: where it starts, its four bits, and the float 1 that they add to."""


@dataclass(frozen=True)
class Codes:
    """How weights are coded.

    Attributes:
        bits: 8 (codes -128..127) or 4 (codes 0..15).
        group: adjacent inputs that share scale and zero point, a multiple of 8; the last group may
            be cut short by the end of the inputs.
        symmetric: the zero point is the middle of the codes for all groups, 0 or 8, and not stored.
    """

    bits: int
    group: int
    symmetric: bool = True

    def __post_init__(self) -> None:
        if self.bits not in (4, 8) or self.group < WORD or self.group % WORD:
            raise TargetError(
                "unknown weight codes",
                got=f"{self.bits} bits, groups of {self.group}",
                allowed=f"4 or 8 bits, groups of a multiple of {WORD} inputs",
            )

    @property
    def lowest(self) -> int:
        return -128 if self.bits == 8 else 0

    @property
    def highest(self) -> int:
        return self.lowest + 2**self.bits - 1

    @property
    def middle(self) -> int:
        """The zero point of symmetric codes."""
        return self.lowest + 2 ** (self.bits - 1)

    def groups(self, inputs: int) -> int:
        """Number of groups of a layer."""
        return -(-inputs // self.group)


def weight_only(lead: Sequence[int], k: int, n: int, nb: int, codes: Codes) -> tirx.PrimFunc:
    """PrimFunc of a linear layer on coded weights.

    With b = ceil(n/nb) blocks and g groups of s inputs:
    ``(x f32[*lead, k], q, scale f32[b, g, nb][, zero [b, g, nb]]) -> y f32[*lead, n]``,
    q and zero being int8[b, g, s, nb] and int8, or uint32[b, g, s/8, nb] and uint8.
    """
    groups, blocks, size = codes.groups(k), -(-n // nb), codes.group
    x = te.placeholder(dims(*lead, k), "float32", name="x")
    if codes.bits == 8:
        q = te.placeholder(dims(blocks, groups, size, nb), "int8", name="q")
    else:
        q = te.placeholder(dims(blocks, groups, size // WORD, nb), "uint32", name="q")
    scale = te.placeholder(dims(blocks, groups, nb), "float32", name="scale")
    inputs = [x, q, scale]
    zero = None
    if not codes.symmetric:
        dtype = "int8" if codes.bits == 8 else "uint8"
        zero = te.placeholder(dims(blocks, groups, nb), dtype, name="zero")
        inputs.append(zero)
    outer = accumulator_shape(lead, n, nb)[: row_position(lead) + 1]

    def entry(row: Sequence[tirx.Expr], g: tirx.Expr, i: tirx.Expr) -> tirx.Expr:
        place = g * size + i
        if k % size == 0:
            return x[(*row, place)]
        inside = x[(*row, tirx.min(place, tirx.IntImm("int64", k - 1)))]
        return tirx.Select(place < k, inside, f32(0))

    i = axis(size, "i")
    part = te.compute(
        (*outer, *dims(blocks, groups, nb)),
        lambda *a: te.sum(
            entry(input_index(lead, a[:-3]), a[-2], i) * _decoded(q, a[-3], a[-2], i, a[-1]),
            axis=i,
        ),
        name="part",
    )
    total = None
    if not (codes.symmetric and codes.middle == 0):
        ii = axis(size, "i")
        total = te.compute(
            dims(*lead, groups),
            lambda *a: te.sum(entry(a[:-1], a[-1], ii), axis=ii),
            name="total",
        )
    g = axis(groups, "g")

    def scaled(*a: tirx.Var) -> tirx.Expr:
        *row, o, j = a
        value = part[(*row, o, g, j)]
        if total is not None:
            point = zero[o, g, j].astype("float32") if zero is not None else f32(codes.middle)
            if codes.bits == 4:
                point = point * f32(1 / 16) + f32(1)
            value = value - total[(*input_index(lead, row), g)] * point
        return te.sum(value * scale[o, g, j], axis=g)

    acc = te.compute(
        accumulator_shape(lead, n, nb), scaled, name="linear", attrs=family(FAMILY_NAME)
    )
    y = te.compute(dims(*lead, n), lambda *a: accumulated(acc, lead, a), name="y")
    return prim_func([*inputs, y])


def _decoded(q: te.Tensor, o: tirx.Expr, g: tirx.Expr, i: tirx.Expr, j: tirx.Expr) -> tirx.Expr:
    """The code of input i of a group as a float: as it is, or as 1 + code / 16 if it has 4 bits."""
    if q.dtype == "int8":
        return q[o, g, i, j].astype("float32")
    u32 = partial(tirx.IntImm, "uint32")
    code = q[o, g, i // WORD, j] >> (i % WORD * 4).astype("uint32")
    return tirx.reinterpret("float32", code << u32(_SHIFT) & u32(_MASK) | u32(_ONE))


def pack_weight_only(
    codes: Codes,
    code: NDArray[np.integer],
    scale: NDArray[np.float32],
    zero: NDArray[np.integer] | None,
    nb: int,
) -> tuple[NDArray[np.generic], ...]:
    """What the kernel reads after x: (q, scale) or (q, scale, zero).

    Args:
        code: [N, K] within the range of the codes.
        scale: float32 [N, groups].
        zero: [N, groups] within the range of the codes; None if symmetric.
        nb: outputs of a block.

    Raises:
        TargetError: codes or zero points out of range, shapes that do not fit.
    """
    n, k = code.shape
    groups, padded = codes.groups(k), -(-n // nb) * nb
    points = np.full((n, groups), codes.middle) if zero is None else np.asarray(zero)
    if (
        scale.shape != (n, groups)
        or points.shape != scale.shape
        or (zero is None) != codes.symmetric
    ):
        raise TargetError(
            "scales or zero points do not fit the codes",
            got=f"scales {scale.shape}, zero points {None if zero is None else points.shape}",
            allowed=f"({n}, {groups}), {'no' if codes.symmetric else 'such'} zero points",
        )
    for what, values in (("codes", code), ("zero points", points)):
        if values.size and not codes.lowest <= values.min() <= values.max() <= codes.highest:
            raise TargetError(
                f"{what} out of range",
                got=f"{values.min()} to {values.max()}",
                allowed=f"{codes.lowest} to {codes.highest}",
            )
    whole = np.repeat(points, codes.group, axis=1)
    whole[:, :k] = code
    whole = np.pad(whole, ((0, padded - n), (0, 0)), constant_values=codes.middle)
    packed = whole.reshape(-1, nb, groups, codes.group).transpose(0, 2, 3, 1)
    steps = scale
    if codes.bits == 4:
        words = packed.reshape(-1, groups, codes.group // WORD, WORD, nb).astype(np.uint32)
        packed = np.bitwise_or.reduce(words << (4 * np.arange(WORD, dtype=np.uint32))[:, None], 3)
        steps = scale * np.float32(16)  # of the mantissa
    else:
        packed = packed.astype(np.int8)
    scales, zeros = (
        np.pad(a, ((0, padded - n), (0, 0))).reshape(-1, nb, groups).transpose(0, 2, 1)
        for a in (steps, points)
    )
    made = (np.ascontiguousarray(packed), np.ascontiguousarray(scales))
    if codes.symmetric:
        return made
    return (*made, np.ascontiguousarray(zeros.astype(np.int8 if codes.bits == 8 else np.uint8)))
