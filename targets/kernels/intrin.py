"""Tensor intrinsics for exact uint8 x int8 products, registered when this module is imported.

TVM's own ``dot_16x4_vnni`` hands int32 vectors to ``llvm.x86.avx512.vpdpbusd``, which since LLVM 22
wants int8 vectors; its AVX2 and AVX-512 ones use ``pmaddubs``, which saturates.
"""

# TVMScript is read as Python by TVM alone: its annotations are buffers, not types.
# mypy: disable-error-code="valid-type, untyped-decorator"

from __future__ import annotations

from functools import cache

from tvm import s_tir, tirx
from tvm.script import tirx as T

from targets.kernels.dot import add_pairs, dot
from targets.target import Target


def dot_name(target: Target) -> str | None:
    """The intrinsic that adds 4 products to each of ``target.lanes`` int32; None without such a one."""
    return _dot(target.dot, target.vector_bits) if target.dot else None


def madd_name(target: Target) -> str | None:
    """The intrinsic that adds 2 products to each of ``target.lanes`` int32; None below AVX2 on x86."""
    if target.architecture == "aarch64":
        return _madd(4)
    return _madd(target.lanes) if target.vector_bits >= 256 else None


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


def _dot_impl(kind: str, lanes: int) -> tirx.PrimFunc:
    codes, sums = f"int8x{4 * lanes}", f"int32x{lanes}"

    @T.prim_func(private=True, s_tir=True)
    def impl(
        a: T.Buffer((4,), "uint8", offset_factor=1),
        b: T.Buffer((lanes, 4), "int8", offset_factor=1),
        c: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:4], b[0:lanes, 0:4])
            T.writes(c[0:lanes])
            c[T.ramp(T.int32(0), 1, lanes)] = dot(
                kind,
                lanes,
                c.vload([0], sums),
                T.reinterpret(
                    T.broadcast(T.reinterpret(a.vload([0], "uint8x4"), dtype="int32"), lanes),
                    dtype=codes,
                ),
                b.vload([0, 0], codes),
            )

    return impl


def _madd_desc(lanes: int) -> tirx.PrimFunc:
    outputs = lanes // 2

    @T.prim_func(private=True, s_tir=True)
    def desc(
        a: T.Buffer((4,), "uint8", offset_factor=1),
        b: T.Buffer((outputs, 4), "int8", offset_factor=1),
        c: T.Buffer((outputs, 2), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:outputs, 0:2], a[0:4], b[0:outputs, 0:4])
            T.writes(c[0:outputs, 0:2])
            for i in T.serial(0, outputs):
                for p in T.serial(0, 2):
                    for k in T.serial(0, 2):
                        with T.sblock("update"):
                            vp, vi, vk = T.axis.remap("SSR", [p, i, k])
                            c[vi, vp] = c[vi, vp] + T.cast(a[vp * 2 + vk], "int32") * T.cast(
                                b[vi, vp * 2 + vk], "int32"
                            )

    return desc


def _madd_impl(lanes: int) -> tirx.PrimFunc:
    outputs = lanes // 2
    codes, words, sums = f"int8x{2 * lanes}", f"int16x{2 * lanes}", f"int32x{lanes}"

    @T.prim_func(private=True, s_tir=True)
    def impl(
        a: T.Buffer((4,), "uint8", offset_factor=1),
        b: T.Buffer((outputs, 4), "int8", offset_factor=1),
        c: T.Buffer((outputs, 2), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:outputs, 0:2], a[0:4], b[0:outputs, 0:4])
            T.writes(c[0:outputs, 0:2])
            c[0, T.ramp(T.int32(0), 1, lanes)] = c.vload([0, 0], sums) + add_pairs(
                lanes,
                T.reinterpret(
                    T.broadcast(
                        T.reinterpret(T.cast(a.vload([0], "uint8x4"), "int16x4"), dtype="int64"),
                        outputs,
                    ),
                    dtype=words,
                ),
                T.cast(b.vload([0, 0], codes), words),
            )

    return impl


@cache  # registered when first asked for: TVM takes a quarter of a second to read each
def _dot(kind: str, bits: int) -> str:
    name, lanes = f"codesign.dot4_{kind}_{bits}", bits // 32
    s_tir.TensorIntrin.register(name, _dot_desc(lanes), _dot_impl(kind, lanes), override=True)
    return name


@cache
def _madd(lanes: int) -> str:
    name = f"codesign.madd2_{32 * lanes}"
    s_tir.TensorIntrin.register(name, _madd_desc(lanes), _madd_impl(lanes), override=True)
    return name
