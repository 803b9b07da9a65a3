"""Vector expressions of the products of 8-bit codes that processors have instructions for.

AArch64 multiplies int8 by int8 (SDOT, from dotprod) or uint8 by int8 (USDOT, from i8mm). SDOT takes
unsigned codes less 128. What that leaves out, 128 times the sum of the signed ones, is another SDOT, which
rows of a register tile share, and one addition for each; so the result is exact.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

_OFFSET = 128


def dot(
    kind: str, lanes: int, sums: tirx.Expr, unsigned: tirx.Expr, signed: tirx.Expr
) -> tirx.Expr:
    """``sums`` (int32) and the products of four neighbours of ``unsigned`` and ``signed``, both as int8.

    Args:
        kind: as `Target.dot` says it.
        lanes: sums in a vector.
    """
    if kind == "vnni":
        return _sums(f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", lanes, sums, unsigned, signed)
    if kind == "usdot":
        return _sums("llvm.aarch64.neon.usdot.v4i32.v16i8", lanes, sums, unsigned, signed)
    sdot = "llvm.aarch64.neon.sdot.v4i32.v16i8"
    ones = _splat("int8", 1, 4 * lanes)
    shared = _sums(sdot, lanes, _splat("int32", 0, lanes), ones, signed)
    flipped = unsigned ^ _splat("int8", -_OFFSET, 4 * lanes)
    return _sums(sdot, lanes, sums + shared * _splat("int32", _OFFSET, lanes), flipped, signed)


def byte_sums(kind: str, lanes: int, sums: tirx.Expr, unsigned: tirx.Expr) -> tirx.Expr:
    """``sums`` (int32) and four neighbours of ``unsigned``, uint8 codes as int8."""
    ones = _splat("int8", 1, 4 * lanes)
    if kind == "vnni":
        return dot(kind, lanes, sums, unsigned, ones)
    return _sums("llvm.aarch64.neon.udot.v4i32.v16i8", lanes, sums, unsigned, ones)


def add_pairs(lanes: int, a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """``lanes`` int32 sums of the two products of neighbours of ``a`` and ``b``, int16.

    AArch64 wants products that are int16 themselves, as those of uint8 and int8 are.
    """
    if lanes == 4:
        return _sums("llvm.aarch64.neon.saddlp.v4i32.v8i16", lanes, a * b)
    name = "llvm.x86.avx512.pmaddw.d.512" if lanes == 16 else "llvm.x86.avx2.pmadd.wd"
    return _sums(name, lanes, a, b)


def _sums(name: str, lanes: int, *operands: tirx.Expr) -> tirx.Expr:
    """A call of an LLVM intrinsic that makes ``lanes`` int32."""
    identity = T.llvm_lookup_intrinsic_id(name)
    return T.call_llvm_pure_intrin(identity, *operands, dtype=f"int32x{lanes}")


def _splat(dtype: str, value: int, lanes: int) -> tirx.Expr:
    return tirx.Broadcast(tirx.IntImm(dtype, value), lanes)
