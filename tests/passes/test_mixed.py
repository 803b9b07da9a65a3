"""Mixed precision: each layer of one network in a format of its own."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from codesign.kernels import kernels
from codesign.pipeline import compile_model
from passes.format_linear import format_linears
from passes.formats import DENSE, Format
from passes.int8 import Int8
from passes.int8_static import Int8Static
from passes.sites import Linear
from passes.solve.gram import Gram
from passes.solve.site import Affine, solve_linear
from passes.weight_only import WeightOnly
from targets.target import find

HOST = find("host")
FORMATS: dict[str, tuple[Format, str]] = {
    "a": (Int8Static(1.0, HOST.block), "linear_int8_static"),
    "b": (Int8(1.0, HOST.block), "linear_int8"),
    "c": (WeightOnly(4, 32), "linear_weight_only"),
    "d": (WeightOnly(8, 32), "linear_weight_only"),
    "e": (Int8Static(0.5, HOST.block), "linear_sparse_int8_static"),
    "f": (DENSE, "linear_add_relu"),
}
"""Layers in their order, and what their kernels are called."""


def test_every_layer_has_a_format_of_its_own(sketch) -> None:
    rng, width = np.random.default_rng(2), 45
    w = {}
    for name in FORMATS:
        w[f"{name}.w"] = (rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
        w[f"{name}.b"] = rng.standard_normal(width).astype(np.float32)

    def draw(s):
        y = s.x
        for name in FORMATS:
            y = s.bb.emit(relax.op.nn.relu(s.linear(y, name)))
        return [y]

    model = sketch((2, 3, width), w, draw)
    rows = rng.standard_normal((400, width))
    x = rng.standard_normal((2, 3, width))
    layers, wanted = [], x
    for name, (form, _) in FORMATS.items():
        affine = Affine(w[f"{name}.w"], w[f"{name}.b"])
        site = Linear(name, f"{name}.w", f"{name}.b", 6, width, width)
        solved = solve_linear(affine, Gram(width).add(rows), form)
        layers.append((site, solved))
        wanted = np.maximum(wanted @ solved.weight.T.astype(np.float64) + solved.bias, 0)
        rows = np.maximum(rows @ solved.weight.T + solved.bias, 0)
    written, report = format_linears(model, layers, HOST)
    assert len({change.detail for change in report.rewrites}) == len(FORMATS)
    lowered, executable = compile_model(written, HOST)
    names = [k.name for k in kernels(lowered)]
    for _, kernel in FORMATS.values():
        assert any(n.startswith(kernel) for n in names), kernel
    values = (x.astype(np.float32), *lowered.weights.values())
    machine = relax.VirtualMachine(executable, tvm.cpu())
    got = machine["main"](*[tvm.runtime.tensor(v) for v in values])[0].numpy()
    # three layers round their inputs to 8 bits; the weights are those of the reference
    assert np.square(got - wanted).sum() < 1e-3 * np.square(wanted).sum()
    assert np.abs(got - wanted).max() > 1e-6
