"""Attention on a combined QKV tensor becomes one kernel that reads that tensor as it lies."""

from __future__ import annotations

from tvm import relax

from passes.model import Model
from passes.patterns import AttentionMatch, Flow, shape_of
from passes.rewrite import Rewriting, rewrite
from targets.kernels.attention import attention


def use_attention_kernels(model: Model) -> Model:
    """Replace split + reshapes + R.nn.attention + reshape by a call of the attention kernel.

    Attention of any other form (cross attention, causal) is left for legalisation.
    """
    flow = Flow(model)
    matches = {m.o: m for m in flow.attentions() if _suits(flow, m)}

    def edit(graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        return _kernel(graph, flow, matches[var]) if var in matches else None

    return rewrite(model, model.weights, edit, name="lower attention")


def _suits(flow: Flow, match: AttentionMatch) -> bool:
    """True if q, k and v are the thirds of one float32 tensor, and it is not causal."""
    source = flow.third(match.q, 0)
    parts = (flow.third(match.k, 1), flow.third(match.v, 2))
    if source is None or not all(p is not None and p.same_as(source) for p in parts):
        return False
    attrs = _call(flow, match).attrs
    free = attrs.causal_mask is None and attrs.window_size is None
    return free and len(shape_of(source)) == 3 and str(source.ty.dtype) == "float32"


def _kernel(graph: Rewriting, flow: Flow, match: AttentionMatch) -> relax.Call:
    call = _call(flow, match)
    source = flow.third(match.q, 0)
    bias = [graph.new(b) for b in call.args[3:]]
    batch, seq, heads, dim = shape_of(call)
    scale = dim**-0.5 if call.attrs.scale is None else float(call.attrs.scale)
    shape = shape_of(bias[0]) if bias else None
    kernel = graph.kernel(attention(batch, seq, heads, dim, shape, scale), "attention")
    return relax.call_tir(kernel, [graph.new(source), *bias], match.o.ty)


def _call(flow: Flow, match: AttentionMatch) -> relax.Call:
    call = flow.call(match.attention, "relax.nn.attention", "relax.nn.attention_bias")
    assert call is not None
    return call
