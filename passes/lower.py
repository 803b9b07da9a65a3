"""Lowering: a canonical model becomes calls of fused kernels, one PrimFunc each.

Linear layers and convolutions become our products with packed weights, attention one kernel on the
combined QKV tensor, LayerNorm, softmax and GELU our vectorised computes. Everything elementwise that follows is then
fused into the kernel that produces its operand, so bias, GELU and residual cost no memory traffic.
Kernels that earlier passes put in (int8, sparse) are kept and fused in the same way. Layers of models that
came quantised run on their integers where the target multiplies them (`passes.integers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from passes.errors import PassError
from passes.integers import use_integers
from passes.legalize import LEGALIZE, VIEWS
from passes.lower_attention import use_attention_kernels
from passes.lower_codes import compute_codes
from passes.lower_conv import DEPTHWISE, conv_call, conv_weight, is_depthwise, packed_conv
from passes.model import Model
from passes.patterns import shape_of
from passes.rewrite import Rewriting, bindings_of, rewrite
from targets.kernels.conv_depthwise import pack_depthwise
from targets.kernels.linear import dense, pack_dense
from targets.target import Target

PACKED = ".packed"
"""Suffix of the weight that ``lower`` makes of a dense one: blocks of ``target.block`` outputs."""


def lower(model: Model, target: Target) -> Model:
    """Return ``model`` as call_tir of fused kernels (and views), with dense weights packed.

    Exact up to the order of sums. Weights used only by linear layers and convolutions are replaced by their packed
    form ``name + ".packed"`` or ``".depthwise"``; one that is used otherwise too (tied embeddings) stays beside it.

    Raises:
        PassError: an operator that has no kernel.
    """
    return finished(grouped_model(model, target), target)


def grouped_model(model: Model, target: Target) -> Model:
    """The model as kernels of single operators, grouped as relax fuses them."""
    model = use_integers(model, target)[0]
    model = compute_codes(use_attention_kernels(model, target))
    model = use_packed_kernels(model, target)
    with target.tvm():
        return replace(model, mod=_GROUP(model.mod))


def finished(model: Model, target: Target) -> Model:
    """The model with each group made into one kernel.

    Raises:
        PassError: an operator that has no kernel.
    """
    with target.tvm():
        lowered = replace(model, mod=_FUSE(model.mod)).check("lower")
    return _only_kernels(lowered)


_GROUP = tvm.transform.Sequential(
    [
        relax.backend.DispatchSortScan(),
        relax.transform.LegalizeOps(LEGALIZE, skip_ops=VIEWS),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
    ]
)
"""From the remaining operators to kernels of single ones, in groups."""

_FUSE = tvm.transform.Sequential([relax.transform.FuseTIR(), relax.transform.DeadCodeElimination()])


def use_packed_kernels(model: Model, target: Target) -> Model:
    """Replace products with float32 weights, ``matmul(x, permute_dims(W))`` and convolutions."""
    found = _packed_weights(model)
    made = [name + suffix for name, suffix in found.items()]
    weights = lowered_weights([*model.weights, *made], model.weights, target)

    def edit(graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        name = graph.linear_weight(value)
        if name in found:
            x = graph.new(value.args[0])
            *lead, k = shape_of(x)
            n = model.weights[name].shape[0]
            kernel = graph.kernel(dense(lead, k, n, target.block), "linear")
            return relax.call_tir(kernel, [x, graph.weight(name + PACKED)], var.ty)
        name = conv_weight(graph, value)
        if name in found:
            return conv_call(graph, value, graph.weight(name + found[name]), target)
        return None

    return rewrite(model, weights, edit, name="lower linear layers and convolutions")


def dense_name(lowered: str) -> str:
    """The weight that a lowered graph's weight is made of; the name itself if it is none of ours."""
    return lowered.removesuffix(PACKED).removesuffix(DEPTHWISE)


def lowered_weights(
    names: Iterable[str], weights: Mapping[str, NDArray[np.generic]], target: Target
) -> dict[str, NDArray[np.generic]]:
    """The weights that a lowered graph reads under ``names``, made from the dense ones."""
    return {name: _lowered_weight(name, weights, target) for name in names}


def _lowered_weight(
    name: str, weights: Mapping[str, NDArray[np.generic]], target: Target
) -> NDArray[np.generic]:
    if name in weights:
        return weights[name]
    dense_weight = weights[dense_name(name)].astype(np.float32, copy=False)
    if name.endswith(DEPTHWISE):
        return pack_depthwise(dense_weight)
    if dense_weight.ndim == 4:
        return packed_conv(dense_weight, target)
    return pack_dense(dense_weight, target.block)


def _packed_weights(model: Model) -> dict[str, str]:
    """Weights of float32 linear layers and convolutions that kernels compute, with their suffix."""
    graph = Rewriting(model, {})
    found: dict[str, str] = {}
    for binding in bindings_of(model):
        call = binding.value
        name = graph.linear_weight(call) or conv_weight(graph, call) or ""
        if name in model.weights and model.weights[name].dtype == np.float32:
            x = call.args[0].ty
            if x.ndim >= 2 and str(x.dtype) == str(binding.var.ty.dtype) == "float32":
                convolves = graph.call(call, "nn.conv2d") is not None
                found[name] = DEPTHWISE if convolves and is_depthwise(call) else PACKED
    return found


def _only_kernels(lowered: Model) -> Model:
    """Return the model, or raise PassError naming the operators that have no kernel."""
    missing = {}
    for binding in bindings_of(lowered):
        op = getattr(binding.value, "op", None)
        if isinstance(op, tvm.ir.Op) and op.name not in ("relax.call_tir", *VIEWS):
            missing[op.name.removeprefix("relax.")] = str(binding.var.name)
    if missing:
        raise PassError(
            "the model has operators that cannot be lowered",
            got=", ".join(f"{op} (at {name})" for op, name in missing.items()),
            allowed="operators of Relax that legalise to kernels",
            next="write that part of the model with other operators, and export it again",
        )
    return lowered
