"""A slice of a model as a model of its own, with switchable activation quantisation and probes."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

from codesign.simulate.gates import chosen, frozen, gate_shape, gated
from codesign.simulate.graph import Dataflow, Slice, spec
from passes.approximate import gelu_of, polynomial
from passes.formats import OTHER, ROWS, Seen
from passes.lower_attention import attention_call, core_of
from passes.model import Model, TensorSpec
from passes.norm import norm_var
from passes.patterns import AttentionMatch, Flow
from passes.sites import FFN, Attention, Linear, Norm, Part
from targets.kernels.attention import attention_short
from targets.kernels.attention_int8 import attention_int8
from targets.kernels.quantize import quantize_rows

_OPAQUE = 8  # relax's OpPatternKind: nothing is fused into it


def as_model(flow: Dataflow, part: Slice, switchable: Sequence[Part | Norm] = ()) -> Model:
    """The slice ``part`` as a model: inputs are what is given, the context, then the gates.

    Args:
        flow: the graph that ``part`` is a slice of.
        part: the slice.
        switchable: sites that get a gate, an input ``gate.<site>`` that says how a linear layer sees its
            input, by which kernel attention is computed, and whether an activation or a norm is by
            its replacement; see `codesign.simulate.gates`.
    """
    copy = _Copy(flow, part, switchable)
    outputs = copy.body()
    inputs = tuple(spec(v) for v in copy.inputs)
    weights = {w: flow.model.weights[w] for w in part.weights}
    return Model(copy.module(), weights, inputs, outputs, flow.model.name).check("the cut")


def probe_input(flow: Dataflow, linear: Linear) -> str:
    """The name of the variable that the layer multiplies."""
    for binding in flow.bindings.values():
        if weight_of(flow, binding.value) == linear.weight:
            return str(binding.value.args[0].name)
    raise KeyError(linear.weight)


def residual_input(flow: Dataflow, linear: Linear) -> str | None:
    """The name of the variable that the layer's output, bias included, is added to; None if none is."""
    made = [n for n, b in flow.bindings.items() if weight_of(flow, b.value) == linear.weight]
    name = made[0] if made else ""
    for _ in range(2):  # the bias, then the residual
        readers = [n for n, reads in flow.reads.items() if name in reads]
        if len(readers) != 1:
            return None
        value = flow.bindings[readers[0]].value
        if not isinstance(value, relax.Call) or value.op != tvm.ir.Op.get("relax.add"):
            return None
        others = [a for a in value.args if isinstance(a, relax.Var) and a.name != name]
        if len(others) != 1:
            return None
        if others[0].name not in flow.model.weights:
            same = spec(others[0]).shape == spec(flow.vars[name]).shape
            return str(others[0].name) if same else None
        name = readers[0]
    return None


def weight_of(flow: Dataflow, value: relax.Expr) -> str | None:
    """The weight of ``matmul(x, permute_dims(weight))`` or ``conv2d(x, weight)``; None of anything else."""
    if _is(value, "relax.nn.conv2d"):
        weight = value.args[1]
    elif _is(value, "relax.matmul"):
        transposed = value.args[1]
        binding = flow.bindings.get(transposed.name) if isinstance(transposed, relax.Var) else None
        if binding is None or not _is(binding.value, "relax.permute_dims"):
            return None
        weight = binding.value.args[0]
    else:
        return None
    name = weight.name if isinstance(weight, relax.Var) else ""
    return name if name in flow.model.weights else None


def _is(value: relax.Expr, op: str) -> bool:
    return isinstance(value, relax.Call) and value.op == tvm.ir.Op.get(op)


@mutator
class _Copy(PyExprMutator):  # type: ignore[misc]
    """Emits the bindings of a slice into a function of its own."""

    def __init__(self, flow: Dataflow, part: Slice, switchable: Sequence[Part | Norm]) -> None:
        super().__init__()
        self._flow = flow
        self._part = part
        gates = {s: _parameter(f"gate.{s.name}", gate_shape(s), "float32") for s in switchable}
        self._gates = {s.weight: gate for s, gate in gates.items() if isinstance(s, Linear)}
        self._cores: dict[str, tuple[AttentionMatch, relax.Var]] = {}
        self._activations: dict[str, relax.Var] = {}
        attentions = {s: gate for s, gate in gates.items() if isinstance(s, Attention)}
        ffns = {s: gate for s, gate in gates.items() if isinstance(s, FFN)}
        norms = {s: gate for s, gate in gates.items() if isinstance(s, Norm)}
        self._norms: dict[str, relax.Var] = {}
        if attentions or ffns or norms:
            self._patterns = Flow(flow.model)
        for ffn, gate in ffns.items():
            gelu = gelu_of(self._patterns, ffn)
            if gelu is not None:
                self._activations[gelu.name] = gate
        for norm, gate in norms.items():
            made = norm_var(self._patterns, norm)
            if made is not None:
                self._norms[made.name] = gate
        for site, gate in attentions.items():
            match = core_of(self._patterns, site)
            if match is not None:
                self._cores[match.o.name] = (match, gate)
        starts = [_like(flow.vars[n]) for n in (*part.given, *part.context)]
        weights = [_like(flow.vars[n]) for n in part.weights]
        self.inputs = [*starts, *gates.values()]
        self._params = [*self.inputs, *weights]
        self._at: dict[str, relax.Expr] = {v.name: v for v in (*starts, *weights)}
        self._bb = relax.BlockBuilder()

    def body(self) -> tuple[TensorSpec, ...]:
        """Emit everything; returns what the function yields."""
        with self._bb.function("main", self._params):
            with self._bb.dataflow():
                for binding in self._part.bindings:
                    value = self._gate_product(binding.value, self.visit_expr(binding.value))
                    if binding.var.name in self._activations:
                        value = self._gate_gelu(value, self._activations[binding.var.name])
                    if binding.var.name in self._cores:
                        value = self._gate_core(value, *self._cores[binding.var.name])
                    if binding.var.name in self._norms:
                        value = self._gate_norm(value, self._norms[binding.var.name])
                    self._at[binding.var.name] = self._bb.emit(value, binding.var.name)
                results = [self._at[w] for w in self._part.wanted]
                result = self._bb.emit_output(relax.Tuple(results))
            self._bb.emit_func_output(result)
        return tuple(spec(r) for r in results)

    def module(self) -> tvm.IRModule:
        """The finished module."""
        return self._bb.get()

    def visit_var_(self, var: relax.Var) -> relax.Expr:
        return self._at[var.name]

    def visit_dataflow_var_(self, var: relax.Var) -> relax.Expr:
        return self._at[var.name]

    def _gate_product(self, old: relax.Expr, new: relax.Expr) -> relax.Expr:
        weight = weight_of(self._flow, old)
        if weight is None or weight not in self._gates:
            return new
        seen = self._bb.emit(self._gate(new.args[0], weight))
        return relax.Call(new.op, [seen, new.args[1]], new.attrs, new.ty_args)

    def _gate_core(self, exact: relax.Expr, match: AttentionMatch, gate: relax.Var) -> relax.Expr:
        """Attention as it is if the gate is open, otherwise by the kernel that the gate names."""
        value = exact
        for make, seen in ((attention_int8, ROWS), (attention_short, OTHER)):
            other = attention_call(
                self._patterns, match, make, make.__name__, self.visit_expr, self._opaque
            )
            value = self._choose(value, other, gate, seen)
        return value

    def _gate_gelu(self, exact: relax.Expr, gate: relax.Var) -> relax.Expr:
        """GELU as it is if the gate is open, otherwise the polynomial."""
        return self._choose(exact, polynomial(exact.args[0], self._bb.emit), gate, OTHER)

    def _choose(
        self, exact: relax.Expr, other: relax.Expr, gate: relax.Var, seen: Seen
    ) -> relax.Expr:
        first = self._bb.emit(exact)
        # opaque, or it would be fused into the exact kernel, which has no schedule with it
        kernel = self._opaque(chosen(spec(first).shape, seen), "chosen")
        return relax.call_tir(kernel, [first, self._bb.emit(other), gate], first.ty)

    def _gate_norm(self, exact: relax.Expr, gate: relax.Var) -> relax.Expr:
        """Layer norm as it is if the gate is open, otherwise the affine map that the gate holds."""
        x = exact.args[0]
        kernel = self._opaque(frozen(spec(x).shape), "frozen")
        return relax.call_tir(kernel, [self._bb.emit(exact), x, gate], x.ty)

    def _opaque(self, kernel: tirx.PrimFunc, name: str) -> relax.GlobalVar:
        """Add a kernel into which nothing is fused."""
        return self._bb.add_func(kernel.with_attr("op_pattern", _OPAQUE), name)

    def _gate(self, x: relax.Expr, weight: str) -> relax.Expr:
        """``x`` as the gate says that it is seen."""
        if weight not in self._gates:
            return x
        *lead, k = spec(x).shape
        quantize = quantize_rows(tuple(lead), k)
        wide = -(-k // 4) * 4
        types = [
            relax.TensorType([*lead, wide], "uint8"),
            relax.TensorType(lead, "float32"),
            relax.TensorType(lead, "int32"),
        ]
        kernel = self._opaque(quantize, "quantize")
        rows = self._bb.emit(relax.call_tir(kernel, [x], types))
        parts = [self._bb.emit(relax.TupleGetItem(rows, i)) for i in range(3)]
        gate = self._gates[weight]
        return self._bb.emit_te(gated, x, *parts, gate, primfunc_name_hint="gated")


def _parameter(name: str, shape: Sequence[int], dtype: str) -> relax.Var:
    return relax.Var(name, relax.TensorType(list(shape), dtype))


def _like(var: relax.Var) -> relax.Var:
    return relax.Var(var.name, var.ty)
