"""Vector expressions of the products of 8-bit codes that processors have instructions for.

AArch64 multiplies int8 by int8 (SDOT, from dotprod) or uint8 by int8 (USDOT, from i8mm). SDOT takes
unsigned codes less 128. What that leaves out, 128 times the sum of the signed ones, is another SDOT, which
rows of a register tile share, and one addition for each; so the result is exact. `offsets` takes the additions
out of the loop.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

OFFSET = 128
"""What SDOT takes off unsigned codes."""

SDOT = "llvm.aarch64.neon.sdot.v4i32.v16i8"
_USDOT = "llvm.aarch64.neon.usdot.v4i32.v16i8"


def dot(
    kind: str, lanes: int, sums: tirx.Expr, unsigned: tirx.Expr, signed: tirx.Expr
) -> tirx.Expr:
    """``sums`` (int32) and the products of four neighbours of ``unsigned`` and ``signed``, both as int8.

    Args:
        kind: as `Target.dot` says it.
        lanes: sums in a vector.
    """
    return dot_prepared(kind, lanes, sums, prepared(kind, lanes, unsigned), signed)


def prepared(kind: str, lanes: int, unsigned: tirx.Expr) -> tirx.Expr:
    """Unsigned codes as the instruction takes them."""
    return unsigned ^ _splat("int8", -OFFSET, 4 * lanes) if kind == "sdot" else unsigned


def dot_prepared(
    kind: str, lanes: int, sums: tirx.Expr, codes: tirx.Expr, signed: tirx.Expr
) -> tirx.Expr:
    """`dot` of codes that are ``prepared``."""
    if kind == "sdot":
        return signed_dot(lanes, sums + left_out(lanes, signed), signed, codes)
    name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}" if kind == "vnni" else _USDOT
    return _sums(name, lanes, sums, codes, signed)


def signed_dot(lanes: int, sums: tirx.Expr, a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """SDOT: ``sums`` and the products of four neighbours of ``a`` and ``b``, int8."""
    return _sums(SDOT, lanes, sums, a, b)


def left_out(lanes: int, signed: tirx.Expr) -> tirx.Expr:
    """What SDOT leaves out for signed codes."""
    zero = _splat("int32", 0, lanes)
    return weight_sums(lanes, zero, signed) * _splat("int32", OFFSET, lanes)


def weight_sums(lanes: int, sums: tirx.Expr, signed: tirx.Expr) -> tirx.Expr:
    """``sums`` and four neighbours of ``signed``, on AArch64."""
    return signed_dot(lanes, sums, _splat("int8", 1, 4 * lanes), signed)


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
