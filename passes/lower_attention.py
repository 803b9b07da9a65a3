"""Attention on a combined QKV tensor becomes one kernel that reads that tensor as it lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tvm import relax, tirx

from passes.errors import PassError
from passes.model import Model
from passes.patterns import AttentionMatch, Flow, shape_of
from passes.rewrite import Rewriting, rewrite
from targets.kernels.attention import attention, attention_gpu
from targets.target import Target

if TYPE_CHECKING:
    from passes.sites import Attention

MakeKernel = Callable[[int, int, int, int, Sequence[int] | None, float], tirx.PrimFunc]
"""From batch, sequence, heads, features of a head, shape of the bias and scale to a kernel."""


def use_attention_kernels(model: Model, target: Target) -> Model:
    """Replace split + reshapes + R.nn.attention + reshape by a call of the attention kernel.

    Attention of any other form (cross attention, causal) is left for legalisation.
    """
    make = attention if target.gpu is None else attention_gpu
    flow = Flow(model)
    matches = {m.o: m for m in flow.attentions() if self_attention(flow, m) is not None}

    def edit(graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        match = matches.get(var)
        if match is None:
            return None
        return attention_call(flow, match, make, "attention", graph.new, graph.kernel)

    return rewrite(model, model.weights, edit, name="lower attention")


def with_core(model: Model, site: Attention, make: MakeKernel, name: str) -> Model:
    """Give an attention site another kernel between its two projections, which stay as they are.

    Args:
        model: canonical; heads of the site may be pruned already, its QKV projection must still be
            a plain linear layer.
        site: the attention.
        make: makes the kernel.
        name: of the kernel in the module.

    Raises:
        PassError: the site is not in the graph in its canonical form.
    """
    flow = Flow(model)
    match = core_of(flow, site)
    if match is None:
        raise PassError(
            f"{site.name} is not in the canonical form",
            got="no attention on the thirds of its QKV projection",
            allowed="linear, split, reshape, attention, reshape",
            next="give attention its kernel before the layers around it are rewritten",
        )

    def edit(graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if not var.same_as(match.o):
            return None
        return attention_call(flow, match, make, name, graph.new, graph.kernel)

    return rewrite(model, model.weights, edit, name=name)


def core_of(flow: Flow, site: Attention) -> AttentionMatch | None:
    """The attention between the two projections of a site, if it has the form that our kernels take."""
    for match in flow.attentions():
        source = self_attention(flow, match)
        linear = None if source is None else flow.linear(source)
        if linear is not None and linear.weight == site.qkv.weight:
            return match
    return None


def self_attention(flow: Flow, match: AttentionMatch) -> relax.Var | None:
    """The QKV tensor, if q, k and v are its thirds, it is float32 [B, S, 3 H D], and nothing is causal."""
    source = flow.third(match.q, 0)
    parts = (flow.third(match.k, 1), flow.third(match.v, 2))
    if source is None or not all(p is not None and p.same_as(source) for p in parts):
        return None
    attrs = _call(flow, match).attrs
    free = attrs.causal_mask is None and attrs.window_size is None
    suits = free and len(shape_of(source)) == 3 and str(source.ty.dtype) == "float32"
    return source if suits else None


def attention_call(
    flow: Flow,
    match: AttentionMatch,
    make: MakeKernel,
    name: str,
    operand: Callable[[relax.Expr], relax.Expr],
    add: Callable[[tirx.PrimFunc, str], relax.GlobalVar],
) -> relax.Call:
    """A call of an attention kernel that computes what ``match.o`` is.

    Args:
        flow, match: the attention, of the form that `self_attention` asks for.
        make: makes the kernel.
        name: of the kernel in the module.
        operand: from a variable of the old graph to the operand in the new one.
        add: adds a kernel to the new module.
    """
    call = _call(flow, match)
    source = flow.third(match.q, 0)
    bias = call.args[3:]
    batch, seq, heads, dim = shape_of(call)
    scale = dim**-0.5 if call.attrs.scale is None else float(call.attrs.scale)
    shape = shape_of(bias[0]) if bias else None
    kernel = add(make(batch, seq, heads, dim, shape, scale), name)
    return relax.call_tir(kernel, [operand(source), *(operand(b) for b in bias)], match.o.ty)


def _call(flow: Flow, match: AttentionMatch) -> relax.Call:
    call = flow.call(match.attention, "relax.nn.attention", "relax.nn.attention_bias")
    assert call is not None
    return call
