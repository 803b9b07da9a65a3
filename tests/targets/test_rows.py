"""Several passes over rows in one kernel, of which more than one result is read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from targets.kernels.norm import layer_norm
from targets.kernels.quantize import quantize_reference, quantize_rows


def norm_with_codes(lead: Sequence[int], width: int) -> tirx.PrimFunc:
    """``(x, r, gamma, beta) -> (y, q, scale, zero)``: y is the norm of x + r, the others its codes."""
    wide = -(-width // 4) * 4
    rows, of_codes, vector = (
        relax.TensorType([*lead, width], "float32"),
        relax.TensorType([*lead, wide], "uint8"),
        relax.TensorType([width], "float32"),
    )
    scalars = [relax.TensorType(list(lead), t) for t in ("float32", "int32")]
    params = [relax.Var(n, t) for n, t in zip("xrgb", (rows, rows, vector, vector), strict=True)]
    bb = relax.BlockBuilder()
    norm = bb.add_func(layer_norm((*lead, width), 1e-5), "norm")
    quantize = bb.add_func(quantize_rows(lead, width), "quantize")
    with bb.function("fused", params, attrs={"Primitive": True}, private=True):
        with bb.dataflow():
            x, r, gamma, beta = params
            total = bb.emit_te(lambda a, b: tvm.topi.add(a, b), x, r)
            y = bb.emit(relax.call_tir(norm, [total, gamma, beta], rows))
            codes = bb.emit(relax.call_tir(quantize, [y], [of_codes, *scalars]))
            parts = [bb.emit(relax.TupleGetItem(codes, i)) for i in range(3)]
            out = bb.emit_output(relax.Tuple([y, *parts]))
        bb.emit_func_output(out)
    fused = bb.get().get_global_var("fused")
    params = [relax.Var(p.name, p.ty) for p in params]
    with bb.function("main", params):
        with bb.dataflow():
            out = bb.emit_output(relax.Call(fused, params))
        bb.emit_func_output(out)
    mod = relax.transform.DeadCodeElimination()(relax.transform.FuseTIR()(bb.get()))
    (func,) = (f for f in mod.functions.values() if isinstance(f, tirx.PrimFunc))
    return func


def check(run, close, target, lead, width):
    rng = np.random.default_rng(0)
    shapes = ((*lead, width), (*lead, width), (width,), (width,))
    args = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    x = args[0].astype(np.float64) + args[1]
    centred = x - x.mean(-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    wanted = unit * args[2] + args[3]
    for y, q, scale, zero in run(norm_with_codes(lead, width), target, args):
        close(y, wanted)
        codes = quantize_reference(y)
        np.testing.assert_allclose(scale, codes.scale, rtol=1e-6)
        np.testing.assert_array_equal(zero, codes.zero)
        assert np.abs(q[..., :width].astype(int) - codes.q).max() <= 1  # halfway between two


@pytest.mark.parametrize(("lead", "width"), [((13,), 33), ((2, 7), 64)])
def test_one_kernel_computes_all(run, close, target, lead, width):
    check(run, close, target, lead, width)


def test_with_threads(run, close, threaded):
    check(run, close, threaded, (130,), 48)
