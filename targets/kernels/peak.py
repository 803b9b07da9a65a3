"""Loops that do nothing but multiply and add in registers: the machine's own speed limit.

The dependent accumulators are stored at the end, so that nothing can be optimised away; a floating
or saturation-free integer chain has no closed form that LLVM would be allowed to use.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from targets.target import Target

CHAINS = 12
"""Independent accumulators: more than latency times throughput of any core we know, and they fit
sixteen registers."""


def fma_peak(target: Target, rounds: int) -> tuple[tirx.PrimFunc, int]:
    """(PrimFunc ``(a f32[lanes], b f32[lanes], y f32[12, lanes])``, floating operations it does)."""
    lanes = target.lanes

    @T.prim_func(s_tir=True)
    def main(
        a: T.Buffer((lanes,), "float32"),
        b: T.Buffer((lanes,), "float32"),
        y: T.Buffer((CHAINS, lanes), "float32"),
    ) -> None:
        T.func_attr({"tirx.noalias": True})
        acc = T.sblock_alloc_buffer((CHAINS, lanes), "float32", scope="local")
        for i in T.unroll(CHAINS):
            for j in T.vectorized(lanes):
                acc[i, j] = y[i, j]
        for _ in range(rounds):
            for i in T.unroll(CHAINS):
                for j in T.vectorized(lanes):
                    acc[i, j] = acc[i, j] * a[j] + b[j]
        for i in T.unroll(CHAINS):
            for j in T.vectorized(lanes):
                y[i, j] = acc[i, j]

    return main, 2 * rounds * CHAINS * lanes


def vnni_peak(target: Target, rounds: int) -> tuple[tirx.PrimFunc, int]:
    """(PrimFunc ``(a s8[4*lanes], b s8[4*lanes], y i32[12, lanes])``, integer operations it does)."""
    lanes, width = target.lanes, 4 * target.lanes
    name = f"llvm.x86.avx512.vpdpbusd.{target.vector_bits}"
    codes, sums = f"int8x{width}", f"int32x{lanes}"

    @T.prim_func(s_tir=True)
    def main(
        a: T.Buffer((width,), "int8"),
        b: T.Buffer((width,), "int8"),
        y: T.Buffer((CHAINS, lanes), "int32"),
    ) -> None:
        T.func_attr({"tirx.noalias": True})
        acc = T.sblock_alloc_buffer((CHAINS, lanes), "int32", scope="local")
        for i in T.unroll(CHAINS):
            for j in T.vectorized(lanes):
                acc[i, j] = y[i, j]
        for _ in range(rounds):
            for i in T.unroll(CHAINS):
                acc[i, T.ramp(0, 1, lanes)] = T.call_llvm_pure_intrin(
                    T.llvm_lookup_intrinsic_id(name),
                    acc.vload([i, 0], sums),
                    a.vload([0], codes),
                    b.vload([0], codes),
                    dtype=sums,
                )
        for i in T.unroll(CHAINS):
            for j in T.vectorized(lanes):
                y[i, j] = acc[i, j]

    return main, 8 * rounds * CHAINS * lanes
