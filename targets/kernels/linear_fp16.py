"""Dense float16 linear layers: products and short sums in float16, long sums in float32.

A processor that computes in float16 does twice as many products at once as in float32, and adds each to a
float16 of 11 bits. A long sum would lose what is small against it, so only CHUNK products are added that
way, and the sums of the chunks in float32. With u = 2^-11, of inputs x and weights w that are float16
themselves, the error of an output is at most

    (c / (1 - c) + 2^-24 n) sum |x w| + 2^-25 K,    c = CHUNK u,  n = chunks,

for K inputs (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1; the last term is
of products too small for a normal float16). Rounding errors that are independent add up to about
0.4 u sqrt(CHUNK) of the standard deviation of the outputs, which does not grow with K.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from targets.kernels.linear import accumulated, accumulator_shape, input_index, pack_dense
from targets.kernels.primfunc import axis, dims, family, prim_func

FAMILY_NAME = "linear_fp16"

CHUNK = 64
"""Products that are added in float16, at most. On a Sapphire Rapids core shared with other work, 128 rows of
384 -> 1536 took 674, 593 and 569 us with 32, 64 and 128, and were off by 0.9, 1.2 and 1.7 thousandths of
the outputs' root mean square."""

LARGEST = 65504.0
"""The largest float16."""

_STEP = 16
"""Inputs are filled up to a multiple of this if they cannot be cut into chunks of at least as many."""

_ELEMENTWISE, _OPAQUE = 0, 8  # relax's OpPatternKind: fused into what makes its input, or never


short_sum = te.comm_reducer(
    lambda a, b: a + b, lambda dtype: tirx.FloatImm(dtype, -0.0), name="short_sum"
)
"""A sum from -0, which changes no number. LLVM makes a call of memset of storing zeros before each chunk, and
saves all registers around it; it knows no such call for other bytes."""


def chunk_of(length: int) -> int:
    """Products of a chunk: the most that divide ``length`` and are at most CHUNK."""
    return max(d for d in range(1, min(length, CHUNK) + 1) if length % d == 0)


def filled(k: int) -> int:
    """``k`` inputs, or channels, with as many more as it takes to cut them into long chunks."""
    return k if chunk_of(k) >= min(_STEP, k) else -(-k // _STEP) * _STEP


def dense_fp16(lead: Sequence[int], k: int, n: int, nb: int) -> tirx.PrimFunc:
    """PrimFunc ``(x f16[*lead, p], w f16[ceil(n/nb), p, nb]) -> y f32[*lead, n]``, p = filled(k)."""
    k = filled(k)
    chunk = chunk_of(k)
    x = te.placeholder(dims(*lead, k), "float16", name="x")
    w = te.placeholder(dims(-(-n // nb), k, nb), "float16", name="w")
    kk, c = axis(chunk, "k"), axis(k // chunk, "c")
    shape = accumulator_shape(lead, n, nb)

    def short(c: tirx.Var, *i: tirx.Var) -> tirx.Expr:
        at = c * chunk + kk
        return short_sum(x[(*input_index(lead, i[:-2]), at)] * w[i[-2], at, i[-1]], axis=kk)

    part = te.compute(dims(k // chunk, *shape), short, name="part")
    acc = te.compute(
        shape,
        lambda *i: te.sum(part[(c, *i)].astype("float32"), axis=c),
        name="linear",
        attrs=family(FAMILY_NAME),
    )
    y = te.compute(dims(*lead, n), lambda *i: accumulated(acc, lead, i), name="y")
    return prim_func([x, w, y])


def round_to_fp16(lead: Sequence[int], k: int) -> tirx.PrimFunc:
    """PrimFunc ``(x f32[*lead, k]) -> (h f16[*lead, filled(k)])``, rounded to nearest, ties to even.

    Where nothing is filled up, relax fuses it into the kernel that makes x, if nothing else reads that.
    """
    width = filled(k)
    x = te.placeholder(dims(*lead, k), "float32", name="x")

    def value(*index: tirx.Var) -> tirx.Expr:
        if width == k:
            return x[index].astype("float16")
        zero = tirx.FloatImm("float16", 0.0)
        return tirx.if_then_else(index[-1] < k, x[index].astype("float16"), zero)

    h = te.compute(dims(*lead, width), value, name="h")
    return prim_func([x, h]).with_attr("op_pattern", _ELEMENTWISE if width == k else _OPAQUE)


def pack_fp16(weight: NDArray[np.float32], nb: int) -> NDArray[np.float16]:
    """float32 [N, K] to float16 [ceil(N/nb), filled(K), nb], rounded; zeros fill it up."""
    missing = filled(weight.shape[1]) - weight.shape[1]
    return pack_dense(np.pad(weight, ((0, 0), (0, missing))), nb).astype(np.float16)


def fp16_values(x: NDArray[np.floating]) -> NDArray[np.float32]:
    """The nearest float16 numbers as float32: infinite from 65520 on."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)
