"""Tensor intrinsics for int8 dot products that this LLVM builds.

TVM's own ``dot_16x4_vnni`` hands int32 vectors to ``llvm.x86.avx512.vpdpbusd``, which since LLVM 22
wants int8 vectors.
"""

from __future__ import annotations

from functools import cache

import tvm
from tvm import s_tir, tirx
from tvm.script import tirx as T

from targets.target import Target


@cache
def dot_product(target: Target) -> str | None:
    """Name of the registered intrinsic that adds 4 products to each of ``target.lanes`` int32.

    None if the target has none: the loop over the four products is then left to LLVM.
    """
    if not target.has_vnni:
        return None
    name = f"codesign.dot_u8s8_{target.vector_bits}"
    if target.vector_bits == 512:
        s_tir.TensorIntrin.register(name, _dot_desc(16), _dot_512(), override=True)
    else:
        s_tir.TensorIntrin.register(name, _dot_desc(8), _dot_256(), override=True)
    return name


def _dot_desc(lanes: int) -> tirx.PrimFunc:
    @T.prim_func(private=True, s_tir=True)
    def desc(
        a: T.Buffer((4,), "uint8", offset_factor=1),
        b: T.Buffer((lanes, 4), "int8", offset_factor=1),
        c: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:4], b[0:lanes, 0:4])
            T.writes(c[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, 4):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        c[vi] = c[vi] + T.cast(a[vk], "int32") * T.cast(b[vi, vk], "int32")

    return desc


def _dot_512() -> tirx.PrimFunc:
    @T.prim_func(private=True, s_tir=True)
    def impl(
        a: T.Buffer((4,), "uint8", offset_factor=1),
        b: T.Buffer((16, 4), "int8", offset_factor=1),
        c: T.Buffer((16,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:16], a[0:4], b[0:16, 0:4])
            T.writes(c[0:16])
            c[T.ramp(T.int32(0), 1, 16)] = T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.512"),
                c.vload([0], "int32x16"),
                T.reinterpret(
                    T.broadcast(T.reinterpret(a.vload([0], "uint8x4"), dtype="int32"), 16),
                    dtype="int8x64",
                ),
                b.vload([0, 0], "int8x64"),
                dtype="int32x16",
            )

    return impl


def _dot_256() -> tirx.PrimFunc:
    @T.prim_func(private=True, s_tir=True)
    def impl(
        a: T.Buffer((4,), "uint8", offset_factor=1),
        b: T.Buffer((8, 4), "int8", offset_factor=1),
        c: T.Buffer((8,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:8], a[0:4], b[0:8, 0:4])
            T.writes(c[0:8])
            c[T.ramp(T.int32(0), 1, 8)] = T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.256"),
                c.vload([0], "int32x8"),
                T.reinterpret(
                    T.broadcast(T.reinterpret(a.vload([0], "uint8x4"), dtype="int32"), 8),
                    dtype="int8x32",
                ),
                b.vload([0, 0], "int8x32"),
                dtype="int32x8",
            )

    return impl
