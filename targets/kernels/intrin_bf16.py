"""The tensor intrinsic for products of bfloat16 pairs, registered when this module is imported.

``llvm.x86.avx512bf16.dpbf16ps`` takes vectors of bfloat16, which TVM turns into float32 wherever it sees
them. So a function in LLVM's own language takes the pairs as int32 and is inlined: a schedule that uses
the intrinsic must put `dot2_code` on a loop around it, as the annotation `IMPORT`.

AArch64 has BFDOT from its feature bf16 on; without it, both halves of a pair become float32 by a shift
and a mask, once for all rows of a register tile.
"""

# TVMScript is read as Python by TVM alone: its annotations are buffers, not types.
# mypy: disable-error-code="valid-type, untyped-decorator"

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from tvm import s_tir, tirx
from tvm.script import tirx as T

from targets.kernels.linear_bf16 import te_widen
from targets.target import Target

IMPORT = "pragma_import_llvm"

_FUNCTION = "codesign_dot2_{bits}"

_CODE = """
declare <{lanes} x float> @{name}(<{lanes} x float>, <{pairs} x bfloat>, <{pairs} x bfloat>)
define <{lanes} x float> @{function}(<{lanes} x float> %c, <{lanes} x i32> %a, <{lanes} x i32> %b)
    alwaysinline nounwind {{
  %x = bitcast <{lanes} x i32> %a to <{pairs} x bfloat>
  %y = bitcast <{lanes} x i32> %b to <{pairs} x bfloat>
  %r = call <{lanes} x float> @{name}(<{lanes} x float> %c, <{pairs} x bfloat> %x, <{pairs} x bfloat> %y)
  ret <{lanes} x float> %r
}}
"""

_NAMES = {
    16: "llvm.x86.avx512bf16.dpbf16ps.512",
    4: "llvm.aarch64.neon.bfdot.v4f32.v8bf16",
}
"""LLVM's intrinsic by float32 in a vector."""


def dot2_name(target: Target) -> str | None:
    """The intrinsic that adds 2 products to each of ``target.lanes`` float32; None on x86 without AVX512_BF16."""
    if target.has_bf16 and target.lanes in _NAMES:
        return _dot(target.lanes)
    return _widen() if target.architecture == "aarch64" else None


def dot2_code(target: Target) -> str | None:
    """What ``dot2_name`` needs imported; None if nothing."""
    if not target.has_bf16 or target.lanes not in _NAMES:
        return None
    lanes = target.lanes
    function = _FUNCTION.format(bits=32 * lanes)
    return _CODE.format(lanes=lanes, pairs=2 * lanes, name=_NAMES[lanes], function=function)


def _dot2_desc(lanes: int) -> tirx.PrimFunc:
    @T.prim_func(private=True, s_tir=True)
    def desc(
        a: T.Buffer((2,), "uint16", offset_factor=1),
        b: T.Buffer((lanes, 2), "uint16", offset_factor=1),
        c: T.Buffer((lanes,), "float32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:2], b[0:lanes, 0:2])
            T.writes(c[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, 2):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        c[vi] = c[vi] + te_widen(a[vk]) * te_widen(b[vi, vk])

    return desc


def _dot2_impl(lanes: int, products: Callable[..., tirx.Expr]) -> tirx.PrimFunc:
    @T.prim_func(private=True, s_tir=True)
    def impl(
        a: T.Buffer((2,), "uint16", offset_factor=1),
        b: T.Buffer((lanes, 2), "uint16", offset_factor=1),
        c: T.Buffer((lanes,), "float32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:2], b[0:lanes, 0:2])
            T.writes(c[0:lanes])
            c[T.ramp(T.int32(0), 1, lanes)] = products(
                lanes,
                c.vload([0], f"float32x{lanes}"),
                T.reinterpret(a.vload([0], "uint16x2"), dtype="int32"),
                T.reinterpret(b.vload([0, 0], f"uint16x{2 * lanes}"), dtype=f"int32x{lanes}"),
            )

    return impl


def _dot2(lanes: int, sums: tirx.Expr, one: tirx.Expr, pairs: tirx.Expr) -> tirx.Expr:
    """The instruction, through the function in LLVM's language."""
    function = _FUNCTION.format(bits=32 * lanes)
    return T.call_pure_extern(f"float32x{lanes}", function, sums, T.broadcast(one, lanes), pairs)


def _widen2(lanes: int, sums: tirx.Expr, one: tirx.Expr, pairs: tirx.Expr) -> tirx.Expr:
    """Two multiply-adds in float32, the first of the pair first."""
    floats = f"float32x{lanes}"
    shift = T.broadcast(T.int32(16), lanes)
    upper = T.broadcast(T.int32(-0x10000), lanes)
    first = T.broadcast(T.reinterpret(one << 16, dtype="float32"), lanes)
    second = T.broadcast(T.reinterpret(one & -0x10000, dtype="float32"), lanes)
    sums = sums + first * T.reinterpret(pairs << shift, dtype=floats)
    return sums + second * T.reinterpret(pairs & upper, dtype=floats)


@cache  # registered when first asked for, as in ``intrin``
def _dot(lanes: int) -> str:
    name = f"codesign.dot2_{32 * lanes}"
    s_tir.TensorIntrin.register(name, _dot2_desc(lanes), _dot2_impl(lanes, _dot2), override=True)
    return name


@cache
def _widen() -> str:
    name = "codesign.widen2_128"
    s_tir.TensorIntrin.register(name, _dot2_desc(4), _dot2_impl(4, _widen2), override=True)
    return name
