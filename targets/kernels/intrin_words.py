"""As ``intrin``, with codes that come as int32 words of four, the first in the lowest byte.

Arithmetic makes such words out of vectors without moving bytes across lanes. What the intrinsics stand
for is written with shifts, so that it is the same number on targets without VNNI.
"""

# TVMScript is read as Python by TVM alone: its annotations are buffers, not types.
# mypy: disable-error-code="valid-type, untyped-decorator"

from __future__ import annotations

from functools import cache

from tvm import s_tir, tirx
from tvm.script import tirx as T

from targets.kernels.dot import byte_sums, dot
from targets.target import Target


def dot_words_name(target: Target) -> str | None:
    """The intrinsic that adds ``dot_words`` of one word and ``target.lanes`` others; None if none does."""
    return _dot_words(target.dot, target.vector_bits) if target.dot else None


def sum_words_name(target: Target) -> str | None:
    """The intrinsic that adds ``sum_word`` of each of ``target.lanes`` words; None if none does."""
    return _sum_words(target.dot, target.vector_bits) if target.dot else None


def sum_word(word: tirx.Expr) -> tirx.Expr:
    """The sum of the four unsigned bytes of an int32."""
    first, *others = (tirx.bitwise_and(word >> (8 * b), 0xFF) for b in range(4))
    return sum(others, first)


def dot_words(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """The sum of the products of the four unsigned bytes of ``a`` and the four signed ones of ``b``."""
    first, *others = (
        tirx.bitwise_and(a >> (8 * i), 0xFF) * ((b << (24 - 8 * i)) >> 24) for i in range(4)
    )
    return sum(others, first)


def _words_desc(lanes: int) -> tirx.PrimFunc:
    @T.prim_func(private=True, s_tir=True)
    def desc(
        a: T.Buffer((1,), "int32", offset_factor=1),
        b: T.Buffer((lanes,), "int32", offset_factor=1),
        c: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:1], b[0:lanes])
            T.writes(c[0:lanes])
            for i in T.serial(0, lanes):
                with T.sblock("update"):
                    vi = T.axis.spatial(lanes, i)
                    c[vi] = c[vi] + dot_words(a[0], b[vi])

    return desc


def _words_impl(kind: str, lanes: int) -> tirx.PrimFunc:
    codes, sums = f"int8x{4 * lanes}", f"int32x{lanes}"

    @T.prim_func(private=True, s_tir=True)
    def impl(
        a: T.Buffer((1,), "int32", offset_factor=1),
        b: T.Buffer((lanes,), "int32", offset_factor=1),
        c: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:1], b[0:lanes])
            T.writes(c[0:lanes])
            c[T.ramp(T.int32(0), 1, lanes)] = dot(
                kind,
                lanes,
                c.vload([0], sums),
                T.reinterpret(T.broadcast(a[0], lanes), dtype=codes),
                T.reinterpret(b.vload([0], sums), dtype=codes),
            )

    return impl


def _sum_desc(lanes: int) -> tirx.PrimFunc:
    @T.prim_func(private=True, s_tir=True)
    def desc(
        a: T.Buffer((lanes,), "int32", offset_factor=1),
        c: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:lanes])
            T.writes(c[0:lanes])
            for i in T.serial(0, lanes):
                with T.sblock("update"):
                    vi = T.axis.spatial(lanes, i)
                    c[vi] = c[vi] + sum_word(a[vi])

    return desc


def _sum_impl(kind: str, lanes: int) -> tirx.PrimFunc:
    codes, sums = f"int8x{4 * lanes}", f"int32x{lanes}"

    @T.prim_func(private=True, s_tir=True)
    def impl(
        a: T.Buffer((lanes,), "int32", offset_factor=1),
        c: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:lanes])
            T.writes(c[0:lanes])
            c[T.ramp(T.int32(0), 1, lanes)] = byte_sums(
                kind, lanes, c.vload([0], sums), T.reinterpret(a.vload([0], sums), dtype=codes)
            )

    return impl


@cache  # registered when first asked for, as in ``intrin``
def _dot_words(kind: str, bits: int) -> str:
    name, lanes = f"codesign.dot_words_{kind}_{bits}", bits // 32
    s_tir.TensorIntrin.register(name, _words_desc(lanes), _words_impl(kind, lanes), override=True)
    return name


@cache
def _sum_words(kind: str, bits: int) -> str:
    name, lanes = f"codesign.sum_words_{kind}_{bits}", bits // 32
    s_tir.TensorIntrin.register(name, _sum_desc(lanes), _sum_impl(kind, lanes), override=True)
    return name
