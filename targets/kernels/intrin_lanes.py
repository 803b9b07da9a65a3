"""Tensor intrinsics that multiply weights by each number of a vector of inputs, registered when first asked for.

AArch64 multiplies a vector by one number of another (FMLA by element), but not by one in memory. Loading inputs
one by one takes a load for every two products of a tile of 8 outputs; a vector of them is one load. How they are
summed stays as it was: input by input.
"""

# TVMScript is read as Python by TVM alone: its annotations are buffers, not types.
# mypy: disable-error-code="valid-type, untyped-decorator"

from __future__ import annotations

from functools import cache

import numpy as np
from tvm import s_tir, tirx
from tvm.script import tirx as T

from targets.kernels.dot import dot_prepared, prepared
from targets.target import Target


def lanes_name(target: Target, dtype: str, outputs: int) -> str | None:
    """The intrinsic for a vector of inputs by ``outputs`` weights each; None where it gains nothing.

    The weights of all inputs of a vector are in registers at once, and must leave the most of those to sums.
    """
    inputs = inputs_of(target, dtype)
    whole = target.architecture == "aarch64" and outputs % inputs == 0
    return _lanes(dtype, inputs, outputs) if whole and 4 * outputs <= target.registers else None


def inputs_of(target: Target, dtype: str) -> int:
    """Numbers in a vector."""
    return target.vector_bits // 8 // np.dtype(dtype).itemsize


def _desc(dtype: str, inputs: int, outputs: int) -> tirx.PrimFunc:
    @T.prim_func(private=True, s_tir=True)
    def desc(
        a: T.Buffer((inputs,), dtype, offset_factor=1),
        b: T.Buffer((inputs, outputs), dtype, strides=(T.int32(), 1), offset_factor=1),
        c: T.Buffer((outputs,), dtype, offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:outputs], a[0:inputs], b[0:inputs, 0:outputs])
            T.writes(c[0:outputs])
            for k in T.serial(0, inputs):
                for i in T.serial(0, outputs):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        c[vi] = c[vi] + a[vk] * b[vk, vi]

    return desc


def _impl(dtype: str, inputs: int, outputs: int) -> tirx.PrimFunc:
    vector, row = f"{dtype}x{inputs}", f"{dtype}x{outputs}"

    @T.prim_func(private=True, s_tir=True)
    def impl(
        a: T.Buffer((inputs,), dtype, offset_factor=1),
        b: T.Buffer((inputs, outputs), dtype, strides=(T.int32(), 1), offset_factor=1),
        c: T.Buffer((outputs,), dtype, offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:outputs], a[0:inputs], b[0:inputs, 0:outputs])
            T.writes(c[0:outputs])
            for k in T.unroll(inputs):
                c[T.ramp(T.int32(0), 1, outputs)] = c.vload([0], row) + T.broadcast(
                    T.Shuffle([a.vload([0], vector)], [k]), outputs
                ) * b.vload([k, 0], row)

    return impl


def dot_lanes_name(target: Target, outputs: int) -> str | None:
    """The intrinsic for a vector of uint8 codes by the int8 ones of ``outputs`` outputs; None as above.

    It takes four groups of four inputs at once.
    """
    arm = target.architecture == "aarch64" and target.dot != ""
    whole = arm and outputs % target.lanes == 0 and 4 * outputs <= target.registers
    return _dot_lanes(target.dot, outputs) if whole else None


GROUPS = 4
"""Groups of four codes in a vector."""


def _dot_desc(outputs: int) -> tirx.PrimFunc:
    @T.prim_func(private=True, s_tir=True)
    def desc(
        a: T.Buffer((GROUPS * 4,), "uint8", offset_factor=1),
        b: T.Buffer((GROUPS, outputs, 4), "int8", offset_factor=1),
        c: T.Buffer((outputs,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:outputs], a[0 : GROUPS * 4], b[0:GROUPS, 0:outputs, 0:4])
            T.writes(c[0:outputs])
            for g in T.serial(0, GROUPS):
                for i in T.serial(0, outputs):
                    for k in T.serial(0, 4):
                        with T.sblock("update"):
                            vi, vg, vk = T.axis.remap("SRR", [i, g, k])
                            c[vi] = c[vi] + T.cast(a[vg * 4 + vk], "int32") * T.cast(
                                b[vg, vi, vk], "int32"
                            )

    return desc


def _dot_impl(kind: str, outputs: int) -> tirx.PrimFunc:
    def group(words: tirx.Var, g: int) -> tirx.Expr:
        """One of the groups of codes, as often as there are outputs in a vector."""
        return T.reinterpret(T.Shuffle([words], [g] * 4), dtype="int8x16")

    @T.prim_func(private=True, s_tir=True)
    def impl(
        a: T.Buffer((GROUPS * 4,), "uint8", offset_factor=1),
        b: T.Buffer((GROUPS, outputs, 4), "int8", offset_factor=1),
        c: T.Buffer((outputs,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:outputs], a[0 : GROUPS * 4], b[0:GROUPS, 0:outputs, 0:4])
            T.writes(c[0:outputs])
            codes = T.bind(
                T.reinterpret(
                    prepared(kind, 4, T.reinterpret(a.vload([0], "uint8x16"), dtype="int8x16")),
                    dtype="int32x4",
                )
            )
            for g in T.unroll(GROUPS):
                for j in T.unroll(outputs // 4):
                    c[T.ramp(j * 4, 1, 4)] = dot_prepared(
                        kind,
                        4,
                        c.vload([j * 4], "int32x4"),
                        group(codes, g),
                        b.vload([g, j * 4, 0], "int8x16"),
                    )

    return impl


@cache
def _dot_lanes(kind: str, outputs: int) -> str:
    name = f"codesign.dot_lanes_{kind}_{outputs}"
    s_tir.TensorIntrin.register(name, _dot_desc(outputs), _dot_impl(kind, outputs), override=True)
    return name


@cache
def _lanes(dtype: str, inputs: int, outputs: int) -> str:
    name = f"codesign.lanes_{dtype}_{inputs}x{outputs}"
    s_tir.TensorIntrin.register(
        name, _desc(dtype, inputs, outputs), _impl(dtype, inputs, outputs), override=True
    )
    return name
