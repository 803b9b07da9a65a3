"""From tensor expressions to the PrimFuncs of this project: int64 shapes and the marks they carry."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

FAMILY = "codesign.kernel"
"""Annotation on the anchor block that names the kernel's family; it survives fusion."""

_OUT_ELEMWISE_FUSABLE = 4  # relax's OpPatternKind: elementwise consumers are merged into it


def dims(*extents: int) -> tuple[tirx.IntImm, ...]:
    """A shape of int64 constants."""
    return tuple(tirx.IntImm("int64", int(e)) for e in extents)


def f32(value: float) -> tirx.FloatImm:
    """A float32 constant."""
    return tirx.FloatImm("float32", float(value))


def axis(extent: int, name: str) -> tirx.IterVar:
    """A reduction axis of int64 extent."""
    return te.reduce_axis((tirx.IntImm("int64", 0), tirx.IntImm("int64", int(extent))), name=name)


def family(name: str) -> dict[str, str]:
    """Attributes of the anchor block of a kernel."""
    return {FAMILY: name}


def prim_func(tensors: Sequence[te.Tensor]) -> tirx.PrimFunc:
    """The PrimFunc of inputs and outputs, without a name, ready for ``relax.BlockBuilder.add_func``.

    It is marked so that relax's FuseOps merges elementwise consumers (bias, activation, residual).
    """
    func = te.create_prim_func(list(tensors)).without_attr("global_symbol")
    return func.with_attr("op_pattern", _OUT_ELEMWISE_FUSABLE).with_attr("tirx.noalias", True)
