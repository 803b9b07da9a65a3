"""Layers of models that came quantised run on the integers they came with.

A QDQ model says ``matmul(dequantize(q), permute_dims(dequantize(w)))``: codes q of one scale and zero
point, codes w of one scale an output. That is what the kernels of static int8 compute on the codes as they
are, so the scales and zero points of the file decide, and nothing is quantised a second time. Kernels
read uint8: activations that came as int8 are quantised 128 higher, which moves their zero point as far.

Layers of models quantised *dynamically* (``DynamicQuantizeLinear``, ``MatMulInteger``) are products of
integers whose scale and zero point the graph computes from the tensor at hand: they run on the kernel of
dynamic int8, every row with the zero point of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from tvm import relax

from passes.formats import Parts, Place
from passes.int8 import lacks_dot_product
from passes.int8_static import packed_codes, product_of_codes
from passes.integer_layers import (
    NAME,
    SIGNED,
    Array,
    Codes,
    Dynamic,
    Static,
    dynamic_layer,
    op_of,
    static_layer,
)
from passes.model import Model
from passes.patterns import shape_of
from passes.report import Change, Refusal, Report
from passes.rewrite import Rewriting, bindings_of, rewrite
from passes.seen import QUANTIZE_STATIC, Inputs
from targets.kernels.linear_int8 import dense_int8, pack_int8
from targets.kernels.quantize_static import quantize_static, quantizer
from targets.target import Target


@dataclass(frozen=True)
class IntegersConfig:
    """What is rewritten.

    Attributes:
        needs_dot_product: leave everything to float32 on targets without an instruction for int8.
    """

    needs_dot_product: bool = True


def use_integers(
    model: Model, target: Target, config: IntegersConfig | None = None
) -> tuple[Model, Report]:
    """Layers on codes become calls of integer kernels; the report says which stay float32, and why.

    Exact up to the order of sums and to codes of values that lie between two: equal to the model within
    one step of quantisation.

    Args:
        model: canonical; models that are not quantised come back as they are.
        target: gives the instruction and the packed block.
    """
    codes = Codes(model)
    layers, refusals = choices(model, target, config, codes)
    if not layers:
        return model, Report(NAME, refusals=tuple(refusals))
    edit = _IntegerEdit(model, codes, layers, target)
    new = rewrite(model, edit.weights, edit, name=NAME)
    changes = (Change(layer.site.name, NAME, layer.kind) for layer in layers.values())
    return new, Report(NAME, tuple(changes), tuple(refusals))


def choices(
    model: Model,
    target: Target,
    config: IntegersConfig | None = None,
    codes: Codes | None = None,
) -> tuple[dict[relax.Var, Static | Dynamic], list[Refusal]]:
    """The layers that can run on integers, by the variable of their result, and what cannot."""
    codes = codes or Codes(model)
    lack = lacks_dot_product(target) if (config or IntegersConfig()).needs_dot_product else None
    layers: dict[relax.Var, Static | Dynamic] = {}
    refusals: list[Refusal] = []
    for binding in bindings_of(model):
        found = static_layer(codes, binding) or dynamic_layer(codes, binding)
        if found is None:
            continue
        reason = found if isinstance(found, Refusal) else None
        if reason is None and lack is not None and not isinstance(found, Refusal):
            reason = Refusal(found.site.name, NAME, lack)
        if reason is not None:
            refusals.append(reason)
        elif not isinstance(found, Refusal):
            layers[binding.var] = found
    return layers, refusals


@dataclass
class _IntegerEdit:
    """Writes the kernels, the uint8 codes that they read, and what else reads those."""

    model: Model
    codes: Codes
    layers: Mapping[relax.Var, Static | Dynamic]
    target: Target
    weights: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = dict(self.model.weights)
        self._names: dict[relax.Var, tuple[str, ...]] = {}
        for var, layer in self.layers.items():
            self._add(var, layer.site.name, self._packed(layer))
        for root in dict.fromkeys(self.codes.made.values()):
            self._add(root, root.name, self._steps(self.codes.graph.call(root, "quantize")))
        self._inputs = Inputs(self.weights)

    def _add(self, var: relax.Var, name: str, parts: Parts) -> None:
        named = {f"{name}.{suffix}": array for suffix, array in parts.items()}
        self.weights |= named
        self._names[var] = tuple(named)

    def _steps(self, call: relax.Call) -> Parts:
        """What the kernel that makes the codes reads: the same for every channel."""
        step, zero = self.codes.numbers(call) or (1.0, 0)
        signed = SIGNED if str(call.attrs.out_dtype) == "int8" else 0
        width = shape_of(call)[-1]
        inverse, offset = quantizer(np.full(width, step), np.full(width, zero + signed))
        return {"inverse": inverse, "offset": offset}

    def _packed(self, layer: Static | Dynamic) -> Parts:
        site, block = layer.site, self.target.block
        if isinstance(layer, Dynamic):
            q, total = pack_int8(layer.weight, block)
            ones = np.ones(len(layer.weight), np.float32)
            rows = np.ones(shape_of(layer.inputs)[:-1], np.float32)
            return {"rows": rows, "q": q, "scale": ones, "sum": total}
        zero = np.full(site.in_features // site.taps, layer.zero, np.int32)
        scale = (layer.scale.astype(np.float64) * layer.step).astype(np.float32)
        return packed_codes(layer.weight, None, scale, zero, site, block)

    def __call__(self, graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        weights = [graph.weight(name) for name in self._names.get(var, ())]
        layer = self.layers.get(var)
        if isinstance(layer, Static):
            return self._static(graph, layer, weights, value)
        if isinstance(layer, Dynamic):
            return self._dynamic(graph, layer, weights, value)
        if var in self.codes.made and weights:
            shape = shape_of(value)
            kernel = graph.kernel(quantize_static(shape), QUANTIZE_STATIC)
            args = [graph.new(value.args[0]), *weights]
            return relax.call_tir(kernel, args, relax.TensorType(shape, "uint8"))
        self._close_to(graph, value)
        return self._numbers(graph, value) if op_of(value) == "relax.dequantize" else None

    def _close_to(self, graph: Rewriting, reader: relax.Expr) -> None:
        """Read codes as numbers right before ``reader``, by itself: in memory they stay codes.

        A residual sum takes them into the epilogue of the layer whose result it adds, behind it.
        """
        for var in relax.analysis.free_vars(reader):
            numbers = graph.call(var, "dequantize")
            if numbers is not None and numbers.args[0] in self.codes.made:
                graph.put(var, graph.emit(self._numbers(graph, numbers), var.name))

    def _numbers(self, graph: Rewriting, call: relax.Call) -> relax.Expr:
        """``dequantize`` in the new graph, where codes may be higher."""
        if not self.codes.raised(call.args[0]):
            return graph.new(call)
        step, zero = self.codes.numbers(call) or (1.0, 0)
        numbers = relax.const(step, "float32"), relax.const(zero + SIGNED, "uint8")
        return relax.op.dequantize(graph.new(call.args[0]), *numbers, -1, "float32")

    def _static(
        self, graph: Rewriting, layer: Static, weights: Sequence[relax.Var], value: relax.Expr
    ) -> relax.Expr:
        codes = self._inputs.groups(graph, graph.new(layer.inputs))
        to = Place(layer.site, self.target, value.ty)
        return product_of_codes(graph, codes, weights, shape_of(layer.inputs), None, to)

    def _dynamic(
        self, graph: Rewriting, layer: Dynamic, weights: Sequence[relax.Var], value: relax.Expr
    ) -> relax.Expr:
        *lead, k = shape_of(layer.inputs)
        kernel = graph.kernel(
            dense_int8(lead, k, len(layer.weight), self.target.block), "linear_int8"
        )
        codes = self._inputs.groups(graph, graph.new(layer.inputs))
        rows, *packed = weights
        zero = graph.emit(relax.op.broadcast_to(graph.new(layer.zero), lead))
        return relax.call_tir(kernel, [codes, rows, zero, *packed], value.ty)
