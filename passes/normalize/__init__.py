"""Brings any imported graph into the one form that sites and passes are written for.

The function is read once, operator by operator, while every value is either a known array or a view
of a tensor already written (``interpret.py``). Views are composed as data (``views.py``) and move
through layers that work on the last axis, and through convolutions and pools, which work on images
with channels last, so that the reshapes and transposes of each exporter cancel; the decomposed forms
of activations, layer normalisation and attention are recognised when their last operator arrives.
Vectors that scale or shift the result of a layer are then folded into it (``scale.py``). What no
rule knows stays as it is.

The canonical form:

- linear: ``R.matmul(x, R.permute_dims(W, [1, 0]))`` on x of any rank from 2, W a weight [N, K]; then
  ``R.add(y, b)`` with b a weight [N] in second place;
- convolution: ``R.nn.conv2d(x, W, data_layout="NHWC", kernel_layout="OIHW", out_layout="NHWC")`` with
  padding [top, left, bottom, right], x [N, H, W, C], W a weight [O, C / groups, kh, kw]; then
  ``R.add(y, b)`` with b a weight [O]. Of one position at stride 1 it is a linear layer; so is one of
  windows side by side on an image that has to be moved anyway, on x [N, rows, columns, C kh kw];
  zero padding before it is its own; sequences are images of height 1;
- batch norm is in W and b; where there is no such layer before it, or others read that layer too,
  it is ``R.multiply`` and ``R.add`` by weights [C];
- images lie [N, H, W, C] between such layers: ``R.nn.max_pool2d``, ``R.nn.avg_pool2d`` and
  ``R.nn.adaptive_avg_pool2d`` with layout "NHWC" and without rounding up of max pools, ``R.concat``
  on the last axis, the global mean ``R.mean(x, axis=[1, 2])`` [N, C]; columns of a linear layer on a
  flattened image are in the order (row, column, channel);
- ``R.nn.gelu``, ``R.nn.gelu_tanh``, ``R.nn.silu``, ``R.nn.relu``, other limits ``R.clip``; hard sigmoid
  ``R.clip(R.add(R.multiply(x, 1/6), 1/2), 0, 1)``, hard swish x times that;
- ``R.nn.layer_norm(axes=[-1])``; embeddings ``R.take(W, ids, axis=0)``;
- ``R.nn.attention`` on [B, S, H, D] with an explicit scale, its result reshaped to [B, S, H * D];
- quantised models: activations ``R.dequantize(R.quantize(x, s, z), s, z)`` with numbers s and z,
  weights ``R.dequantize(codes, scale, zero, axis=0)`` in place of W, codes an int8 weight of W's shape
  (``quantization.py``);
- each linear layer, convolution and normalisation has weights of its own, used nowhere else;
- whatever depends on no input is a constant or a weight; nothing is unused.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import tvm
from tvm import relax

from passes.model import Model
from passes.normalize.graph import Graph
from passes.normalize.interpret import Interpreter
from passes.normalize.scale import fold_scales
from passes.normalize.values import Static, Tensor, Value, shape_of

__all__ = ["normalize"]


def normalize(model: Model) -> Model:
    """The same function of the same inputs in canonical form; unused weights are gone.

    A model whose inputs lie sequence first ([S, B, ...]) transposes around every attention. It is
    also tried with its inputs transposed once at the start, and taken so if that leaves less.

    Raises:
        PassError: the model branches, or has a shape that is known only at run time.
    """
    direct = _normalize(model, batch_first=False)
    sequences = [s.shape for s in model.inputs if len(s.shape) in (2, 3)]
    one_row = any(len(shape) == 3 and shape[1] == 1 for shape in sequences)
    if not sequences or not (one_row or _moves(direct)[0]):
        return fold_scales(direct)
    turned = _normalize(model, batch_first=True)
    return fold_scales(turned if _moves(turned) < _moves(direct) else direct)


def _normalize(model: Model, batch_first: bool) -> Model:
    others = {gv: f for gv, f in model.mod.functions_items() if gv.name_hint != "main"}
    builder = relax.BlockBuilder(tvm.IRModule(others))
    names = [spec.name for spec in model.inputs]
    inputs = [relax.Var(p.name, p.ty) for p in model.main.params[: len(names)]]
    graph = Graph(builder, names)
    with builder.function("main"):
        with builder.dataflow():
            given = [_turned(graph, v) if batch_first else Tensor.of(v) for v in inputs]
            interpreter = Interpreter(graph, _bound(model, given))
            outputs = interpreter.run(model.main)
            fields = outputs if isinstance(outputs, tuple) else (outputs,)
            result = builder.emit_output(relax.Tuple([graph.read(v) for v in fields]))
        builder.emit_func_output(result, params=[*inputs, *graph.weights])
    return _pruned(model, builder.get(), graph).check("normalize")


def _turned(graph: Graph, var: relax.Var) -> Tensor:
    """An input with its first two axes swapped in the graph, read as if they were not."""
    plain = Tensor.of(var)
    rank = len(plain.shape)
    if rank not in (2, 3):
        return plain
    swap = (1, 0, *range(2, rank))
    shape = tuple(plain.shape[i] for i in swap)
    op = relax.op.reshape(var, shape) if 1 in shape[:2] else relax.op.permute_dims(var, list(swap))
    return graph.tensor(op).permute(swap) or plain


def _moves(model: Model) -> tuple[int, int]:
    """What is left of views: numbers that permutations move, and reshapes within the model."""
    params = set(model.main.params)
    weights = set(model.main.params[len(model.inputs) :])
    permuted = reshapes = 0
    for block in model.main.body.blocks:
        for binding in block.bindings:
            call = binding.value
            name = getattr(getattr(call, "op", None), "name", "")
            if name == "relax.permute_dims" and call.args[0] not in weights:
                permuted += prod(shape_of(call))
            reshapes += name == "relax.reshape" and call.args[0] not in params
    return permuted, reshapes


def _bound(model: Model, given: list[Tensor]) -> dict[relax.Var, Value]:
    """What the parameters of the imported function stand for."""
    old = list(model.main.params)
    bound: dict[relax.Var, Value] = dict(zip(old, given, strict=False))
    for param, (name, array) in zip(old[len(given) :], model.weights.items(), strict=True):
        bound[param] = Static(array, name)
    return bound


def _pruned(model: Model, mod: tvm.IRModule, graph: Graph) -> Model:
    """Without dead operators, unused functions and unused weights."""
    mod = relax.transform.EliminateCommonSubexpr()(mod)
    mod = relax.transform.DeadCodeElimination(["main"])(mod)
    main = relax.analysis.remove_all_unused(mod["main"])
    used = set(relax.analysis.used_vars(main.body))
    inputs = list(main.params[: len(model.inputs)])
    weights = [p for p in main.params[len(inputs) :] if p in used]
    mod["main"] = relax.Function([*inputs, *weights], main.body, main.ret_ty).with_attr(
        "global_symbol", "main"
    )
    arrays = {var.name: array for var, array in graph.weights.items()}
    return replace(model, mod=mod, weights={p.name: arrays[p.name] for p in weights})
