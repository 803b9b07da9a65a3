"""The tensor intrinsic for products of bfloat16 pairs, registered when this module is imported.

``llvm.x86.avx512bf16.dpbf16ps`` takes vectors of bfloat16, which TVM turns into float32 wherever it sees
them. So a function in LLVM's own language takes the pairs as int32 and is inlined: a schedule that uses
the intrinsic must put `DOT2_CODE` on a loop around it, as the annotation `IMPORT`.
"""

# TVMScript is read as Python by TVM alone: its annotations are buffers, not types.
# mypy: disable-error-code="valid-type, untyped-decorator"

from __future__ import annotations

from tvm import s_tir
from tvm.script import tirx as T

from targets.kernels.linear_bf16 import te_widen
from targets.target import Target

IMPORT = "pragma_import_llvm"

_LANES = 16
_FUNCTION = "codesign_dot2_512"

DOT2_CODE = f"""
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define <16 x float> @{_FUNCTION}(<16 x float> %c, <16 x i32> %a, <16 x i32> %b) alwaysinline nounwind {{
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(
    <16 x float> %c, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %r
}}
"""


def dot2_name(target: Target) -> str | None:
    """The intrinsic that adds 2 products to each of ``target.lanes`` float32; None without AVX512_BF16."""
    return _NAME if target.has_bf16 and target.lanes == _LANES else None


@T.prim_func(private=True, s_tir=True)
def _dot2_desc(
    a: T.Buffer((2,), "uint16", offset_factor=1),
    b: T.Buffer((_LANES, 2), "uint16", offset_factor=1),
    c: T.Buffer((_LANES,), "float32", offset_factor=1, scope="local"),
) -> None:
    with T.sblock("root"):
        T.reads(c[0:_LANES], a[0:2], b[0:_LANES, 0:2])
        T.writes(c[0:_LANES])
        for i in T.serial(0, _LANES):
            for k in T.serial(0, 2):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    c[vi] = c[vi] + te_widen(a[vk]) * te_widen(b[vi, vk])


@T.prim_func(private=True, s_tir=True)
def _dot2_impl(
    a: T.Buffer((2,), "uint16", offset_factor=1),
    b: T.Buffer((_LANES, 2), "uint16", offset_factor=1),
    c: T.Buffer((_LANES,), "float32", offset_factor=1, scope="local"),
) -> None:
    with T.sblock("root"):
        T.reads(c[0:_LANES], a[0:2], b[0:_LANES, 0:2])
        T.writes(c[0:_LANES])
        c[T.ramp(T.int32(0), 1, _LANES)] = T.call_pure_extern(
            "float32x16",
            _FUNCTION,
            c.vload([0], "float32x16"),
            T.broadcast(T.reinterpret(a.vload([0], "uint16x2"), dtype="int32"), _LANES),
            T.reinterpret(b.vload([0, 0], "uint16x32"), dtype="int32x16"),
        )


_NAME = "codesign.dot2_512"
s_tir.TensorIntrin.register(_NAME, _dot2_desc, _dot2_impl, override=True)
