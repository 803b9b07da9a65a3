"""Loops that do nothing but multiply and add in registers: the machine's own speed limit.

The accumulators depend on their own last value and are stored at the end, so that nothing can be
optimised away. With several threads each has its own accumulators, and all run at once.
"""

# TVMScript is read as Python by TVM alone: its annotations are buffers, not types.
# mypy: disable-error-code="valid-type, untyped-decorator"

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from targets.errors import TargetError
from targets.target import Target

CHAINS = 12
"""Independent accumulators: latency times throughput of any core we know, and 16 registers hold them."""


def fma_peak(target: Target, rounds: int) -> tuple[tirx.PrimFunc, int]:
    """(kernel, floating operations it does) for float32.

    The kernel is ``(a f32[lanes], b f32[lanes], y f32[threads, 12, lanes])``.
    """
    lanes, threads = target.lanes, target.threads
    kind = T.parallel if threads > 1 else T.serial

    @T.prim_func(s_tir=True)
    def main(
        a: T.Buffer((lanes,), "float32"),
        b: T.Buffer((lanes,), "float32"),
        y: T.Buffer((threads, CHAINS, lanes), "float32"),
    ) -> None:
        T.func_attr({"tirx.noalias": True})
        for t in kind(threads):
            with T.sblock("work"):
                vt = T.axis.spatial(threads, t)
                acc = T.sblock_alloc_buffer((CHAINS, lanes), "float32", scope="local")
                for i in T.unroll(CHAINS):
                    for j in T.vectorized(lanes):
                        acc[i, j] = y[vt, i, j]
                for _ in range(rounds):
                    for i in T.unroll(CHAINS):
                        for j in T.vectorized(lanes):
                            acc[i, j] = acc[i, j] * a[j] + b[j]
                for i in T.unroll(CHAINS):
                    for j in T.vectorized(lanes):
                        y[vt, i, j] = acc[i, j]

    return main, 2 * rounds * CHAINS * lanes * threads


def vnni_peak(target: Target, rounds: int) -> tuple[tirx.PrimFunc, int]:
    """(kernel, integer operations it does) for uint8 x int8.

    The kernel is ``(a s8[4*lanes], b s8[4*lanes], y i32[threads, 12, lanes])``. Raises TargetError
    without VNNI.
    """
    if not target.has_vnni:
        raise TargetError("no VNNI", got=target.name, allowed="a target with avx512vnni or avxvnni")
    lanes, width, threads = target.lanes, 4 * target.lanes, target.threads
    name = f"llvm.x86.avx512.vpdpbusd.{target.vector_bits}"
    codes, sums = f"int8x{width}", f"int32x{lanes}"
    kind = T.parallel if threads > 1 else T.serial

    @T.prim_func(s_tir=True)
    def main(
        a: T.Buffer((width,), "int8"),
        b: T.Buffer((width,), "int8"),
        y: T.Buffer((threads, CHAINS, lanes), "int32"),
    ) -> None:
        T.func_attr({"tirx.noalias": True})
        for t in kind(threads):
            with T.sblock("work"):
                vt = T.axis.spatial(threads, t)
                acc = T.sblock_alloc_buffer((CHAINS, lanes), "int32", scope="local")
                for i in T.unroll(CHAINS):
                    for j in T.vectorized(lanes):
                        acc[i, j] = y[vt, i, j]
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
                        y[vt, i, j] = acc[i, j]

    return main, 8 * rounds * CHAINS * lanes * threads
