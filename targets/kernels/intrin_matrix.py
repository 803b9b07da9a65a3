"""Tensor intrinsics of the instruction that multiplies matrices of codes (USMMLA, from i8mm on AArch64).

It adds the product of 2 rows of 8 uint8 and 2 columns of 8 int8 to 2 x 2 int32 in one register (Arm Architecture
Reference Manual, C7.2). Weights lie in groups of four inputs for each output: two groups of them, interleaved, are
what it takes. Two vectors of sums hold 2 rows x 4 outputs, not row by row as their buffer says: `sums_name` puts
them into that order, and is all that may read what `products_name` writes.
"""

# TVMScript is read as Python by TVM alone: its annotations are buffers, not types.
# mypy: disable-error-code="valid-type, untyped-decorator"

from __future__ import annotations

from functools import cache

from tvm import s_tir, tirx
from tvm.script import tirx as T

from targets.target import Target

ROWS = 2
"""Rows that it multiplies."""

GROUPS = 4
"""Groups of four codes that a vector of a row holds."""

_USMMLA = "llvm.aarch64.neon.usmmla.v4i32.v16i8"


def products_name(target: Target, outputs: int) -> str | None:
    """The intrinsic for 2 rows of 16 codes by ``outputs`` outputs; None if there is none."""
    return _products(outputs) if _suited(target, outputs) else None


def sums_name(target: Target, outputs: int) -> str | None:
    """The intrinsic that copies the sums of 2 rows by ``outputs`` outputs; None if there is none."""
    return _sums(outputs) if _suited(target, outputs) else None


def _suited(target: Target, outputs: int) -> bool:
    arm = target.architecture == "aarch64" and "i8mm" in target.features
    return arm and outputs % 4 == 0 and outputs * 4 <= target.registers


def _codes() -> tirx.Buffer:
    """The codes of two rows, a vector of each."""
    return T.Buffer(
        (ROWS, GROUPS, 4), "uint8", strides=(T.int32(), 4, 1), offset_factor=1, scope="local"
    )


def _weights(outputs: int) -> tirx.Buffer:
    """The weights of as many inputs as a row has codes."""
    return T.Buffer((GROUPS, outputs, 4), "int8", offset_factor=1)


def _pair(outputs: int) -> tirx.Buffer:
    """The sums of two rows."""
    return T.Buffer(
        (ROWS, 1, outputs),
        "int32",
        strides=(T.int32(), T.int32(), 1),
        offset_factor=1,
        scope="local",
    )


def _products_desc(outputs: int) -> tirx.PrimFunc:
    @T.prim_func(private=True, s_tir=True)
    def desc(a: _codes(), b: _weights(outputs), c: _pair(outputs)) -> None:
        with T.sblock("root"):
            T.reads(
                c[0:ROWS, 0:1, 0:outputs], a[0:ROWS, 0:GROUPS, 0:4], b[0:GROUPS, 0:outputs, 0:4]
            )
            T.writes(c[0:ROWS, 0:1, 0:outputs])
            for r in T.serial(0, ROWS):
                for g in T.serial(0, GROUPS):
                    for j in T.serial(0, outputs):
                        for k in T.serial(0, 4):
                            with T.sblock("update"):
                                vr, vj, vg, vk = T.axis.remap("SSRR", [r, j, g, k])
                                c[vr, 0, vj] = c[vr, 0, vj] + T.cast(
                                    a[vr, vg, vk], "int32"
                                ) * T.cast(b[vg, vj, vk], "int32")

    return desc


def _usmmla(sums: tirx.Expr, rows: tirx.Expr, columns: tirx.Expr) -> tirx.Expr:
    identity = T.llvm_lookup_intrinsic_id(_USMMLA)
    codes = (T.reinterpret(x, dtype="int8x16") for x in (rows, columns))
    return T.call_llvm_pure_intrin(identity, sums, *codes, dtype="int32x4")


def _products_impl(outputs: int) -> tirx.PrimFunc:
    def half(x: tirx.Var, y: tirx.Var, h: int) -> tirx.Expr:
        """Eight codes of each of two rows."""
        return T.Shuffle([x, y], [h, h + 2])

    def pair(x: tirx.Var, y: tirx.Var, first: int) -> tirx.Expr:
        """Eight weights of each of two outputs, of two groups of four outputs."""
        return T.Shuffle([x, y], [first, first + 4, first + 1, first + 5])

    @T.prim_func(private=True, s_tir=True)
    def impl(a: _codes(), b: _weights(outputs), c: _pair(outputs)) -> None:
        with T.sblock("root"):
            T.reads(
                c[0:ROWS, 0:1, 0:outputs], a[0:ROWS, 0:GROUPS, 0:4], b[0:GROUPS, 0:outputs, 0:4]
            )
            T.writes(c[0:ROWS, 0:1, 0:outputs])
            x = T.bind(T.reinterpret(a.vload([0, 0, 0], "uint8x16"), dtype="int64x2"))
            y = T.bind(T.reinterpret(a.vload([1, 0, 0], "uint8x16"), dtype="int64x2"))
            for h in T.unroll(2):
                for j in T.unroll(outputs // 4):
                    v = T.bind(
                        T.reinterpret(b.vload([2 * h, j * 4, 0], "int8x16"), dtype="int32x4")
                    )
                    w = T.bind(
                        T.reinterpret(b.vload([2 * h + 1, j * 4, 0], "int8x16"), dtype="int32x4")
                    )
                    c[0, 0, T.ramp(j * 4, 1, 4)] = _usmmla(
                        c.vload([0, 0, j * 4], "int32x4"), half(x, y, h), pair(v, w, 0)
                    )
                    c[1, 0, T.ramp(j * 4, 1, 4)] = _usmmla(
                        c.vload([1, 0, j * 4], "int32x4"), half(x, y, h), pair(v, w, 2)
                    )

    return impl


def _sums_desc(outputs: int) -> tirx.PrimFunc:
    @T.prim_func(private=True, s_tir=True)
    def desc(a: _pair(outputs), b: _pair(outputs)) -> None:
        with T.sblock("root"):
            T.reads(a[0:ROWS, 0:1, 0:outputs])
            T.writes(b[0:ROWS, 0:1, 0:outputs])
            for r in T.serial(0, ROWS):
                for j in T.serial(0, outputs):
                    with T.sblock("copy"):
                        vr, vj = T.axis.remap("SS", [r, j])
                        b[vr, 0, vj] = a[vr, 0, vj]

    return desc


def _sums_impl(outputs: int) -> tirx.PrimFunc:
    @T.prim_func(private=True, s_tir=True)
    def impl(a: _pair(outputs), b: _pair(outputs)) -> None:
        with T.sblock("root"):
            T.reads(a[0:ROWS, 0:1, 0:outputs])
            T.writes(b[0:ROWS, 0:1, 0:outputs])
            for j in T.unroll(outputs // 4):
                x = T.bind(a.vload([0, 0, j * 4], "int32x4"))
                y = T.bind(a.vload([1, 0, j * 4], "int32x4"))
                b[0, 0, T.ramp(j * 4, 1, 4)] = T.Shuffle([x, y], [0, 1, 4, 5])
                b[1, 0, T.ramp(j * 4, 1, 4)] = T.Shuffle([x, y], [2, 3, 6, 7])

    return impl


@cache
def _products(outputs: int) -> str:
    name = f"codesign.usmmla_{outputs}"
    s_tir.TensorIntrin.register(
        name, _products_desc(outputs), _products_impl(outputs), override=True
    )
    return name


@cache
def _sums(outputs: int) -> str:
    name = f"codesign.usmmla_sums_{outputs}"
    s_tir.TensorIntrin.register(name, _sums_desc(outputs), _sums_impl(outputs), override=True)
    return name
