"""Tensor intrinsics that load weights and prefetch those needed later, registered when first asked for.

A product reads each weight once for each register tile of rows. Where all weights together do not
fit the second-level cache, the first tile of a block waits for memory. Prefetching AHEAD bytes ahead
took the convolution of 512 -> 512 channels on 7 x 7 from 49 to 60 % of peak on a Sapphire Rapids core
shared with other work, 256 -> 256 on 14 x 14 from 78 to 86 %; a linear layer of 64 -> 64 lost 2 %.
"""

# TVMScript is read as Python by TVM alone: its annotations are buffers, not types.
# mypy: disable-error-code="valid-type, untyped-decorator"

from __future__ import annotations

from functools import cache

from tvm import s_tir, tirx
from tvm.script import tirx as T

AHEAD = 6144
"""Bytes between a load and its prefetch: 48 steps of a tile of 32 outputs. 4096 was 2 % slower for 512 ->
512 channels on 7 x 7, 12288 as much for pruned layers; others did not care."""

_LINE = 64  # bytes of a cache line
WIDTHS = (8, 16, 32, 48, 64)


def load_name(width: int) -> str | None:
    """The intrinsic that loads ``width`` float32 and prefetches later ones; None if there is none."""
    return _load(width) if width in WIDTHS else None


def _desc(width: int) -> tirx.PrimFunc:
    @T.prim_func(private=True, s_tir=True)
    def desc(
        a: T.Buffer((width,), "float32", offset_factor=1),
        b: T.Buffer((width,), "float32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(a[0:width])
            T.writes(b[0:width])
            for i in T.serial(0, width):
                with T.sblock("load"):
                    vi = T.axis.spatial(width, i)
                    b[vi] = a[vi]

    return desc


def _impl(width: int) -> tirx.PrimFunc:
    vector, lines, far = f"float32x{width}", -(-4 * width // _LINE), AHEAD // 4

    @T.prim_func(private=True, s_tir=True)
    def impl(
        a: T.Buffer((width,), "float32", offset_factor=1),
        b: T.Buffer((width,), "float32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(a[0:width])
            T.writes(b[0:width])
            for line in T.unroll(lines):
                T.evaluate(
                    T.call_intrin(
                        "void", "tirx.prefetch", T.address_of(a[far + line * 16]), 0, 3, 1
                    )
                )
            b[T.ramp(T.int32(0), 1, width)] = a.vload([0], vector)

    return impl


@cache
def _load(width: int) -> str:
    name = f"codesign.load_{width}"
    s_tir.TensorIntrin.register(name, _desc(width), _impl(width), override=True)
    return name
