"""Lowering keeps the numbers, and everything that can be fused is fused."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import relax

from codesign.kernels import kernels
from codesign.pipeline import compile_model
from passes.errors import PassError
from passes.lower import PACKED, lower
from passes.model import Model, TensorSpec
from targets.kernels.linear_int8 import dense_int8, pack_int8
from targets.kernels.quantize import quantize_rows
from targets.target import Target, find

Array = NDArray[np.generic]


@pytest.fixture(scope="module")
def target() -> Target:
    return find("host")


def run(model: Model, target: Target, inputs: Mapping[str, Array]) -> list[Array]:
    lowered, executable = compile_model(model, target)
    values = [inputs[s.name].astype(s.dtype) for s in lowered.inputs]
    tensors = [tvm.runtime.tensor(v) for v in (*values, *lowered.weights.values())]
    vm = relax.VirtualMachine(executable, tvm.cpu())
    return [t.numpy() for t in vm["main"](*tensors)]


def relative(got: Array, wanted: Array) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def graph(
    build: Callable[[relax.BlockBuilder, list[relax.Var]], relax.Expr],
    inputs: Mapping[str, tuple[int, ...]],
    weights: Mapping[str, Array],
) -> Model:
    """A model of float32 inputs and one output."""
    specs = tuple(TensorSpec(n, s, "float32") for n, s in inputs.items())
    shapes = [(s.name, s.shape, s.dtype) for s in specs]
    shapes += [(n, w.shape, str(w.dtype)) for n, w in weights.items()]
    params = [relax.Var(n, relax.TensorType(list(s), d)) for n, s, d in shapes]
    bb = relax.BlockBuilder()
    with bb.function("main", params):
        with bb.dataflow():
            out = bb.emit(build(bb, params))
            result = bb.emit_output(relax.Tuple([out]))
        bb.emit_func_output(result)
    spec = TensorSpec("y", tuple(int(d) for d in out.ty.shape.values), "float32")
    return Model(bb.get(), dict(weights), specs, (spec,)).check("the test")


@pytest.mark.parametrize(
    "sizes",
    [{}, {"batch": 2, "seq": 17, "width": 48, "heads": 3, "hidden": 100, "layers": 1}],
    ids=["even", "odd"],
)
def test_encoder_keeps_its_numbers(encoder, target, sizes):
    net = encoder(**sizes)
    sample = net.sample(3)
    (got,) = run(net.model, target, sample)
    assert relative(got, net.reference(sample)) < 1e-5


def test_encoder_layer_is_seven_kernels(encoder, target):
    one, two = (kernels(lower(encoder(layers=n).model, target)) for n in (1, 2))
    counts = {k.hash: k.count for k in two}
    for kernel in one:
        counts[kernel.hash] -= kernel.count
    added = sorted(k.name for k in two for _ in range(counts[k.hash]))
    assert added == [
        "attention",
        "layer_norm",
        "layer_norm",
        "linear_add",
        "linear_add_add",
        "linear_add_add",
        "linear_add_gelu",
    ]


def test_operator_without_kernel_is_named(target):
    def unlowerable(bb: relax.BlockBuilder, params: list[relax.Var]) -> relax.Expr:
        packed = relax.ExternFunc("no.such.function")
        return relax.op.call_pure_packed(packed, params[0], ty_args=params[0].ty)

    with pytest.raises(PassError, match="cannot be lowered") as caught:
        lower(graph(unlowerable, {"x": (8,)}, {}), target)
    assert "call_pure_packed" in caught.value.got


def test_token_out_of_range_reads_no_foreign_memory(encoder, target):
    net = encoder(layers=1)
    sample = net.sample(0)
    wrong = {**sample, "ids": np.where(sample["ids"] > 40, 10**9, sample["ids"])}
    clipped = {**sample, "ids": np.minimum(wrong["ids"], 49)}
    got, wanted = (run(net.model, target, s)[0] for s in (wrong, clipped))
    np.testing.assert_array_equal(got, wanted)


def test_input_model_is_not_changed(encoder, target):
    net = encoder(layers=1)
    before = tvm.ir.save_json(net.model.mod)
    lower(net.model, target)
    assert tvm.ir.save_json(net.model.mod) == before


def test_dense_weights_are_packed_and_others_kept(encoder, target):
    net = encoder(layers=1)
    lowered = lower(net.model, target)
    linears = {x.weight for x in net.sites.linears}
    assert {n.removesuffix(PACKED) for n in lowered.weights if n.endswith(PACKED)} == linears
    assert not linears & set(lowered.weights)
    assert lowered.weights["words"] is net.model.weights["words"]


def test_weight_read_elsewhere_stays_beside_its_packed_form(target):
    w = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)

    def tied(bb: relax.BlockBuilder, params: list[relax.Var]) -> relax.Expr:
        x, weight = params
        logits = bb.emit(relax.op.matmul(x, relax.op.permute_dims(weight, [1, 0])))
        return relax.op.matmul(relax.op.nn.softmax(logits), weight)

    model = graph(tied, {"x": (3, 5)}, {"w": w})
    assert set(lower(model, target).weights) == {"w", "w" + PACKED}
    x = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)
    e = np.exp(x.astype(np.float64) @ w.T)
    (got,) = run(model, target, {"x": x})
    assert relative(got, e / e.sum(-1, keepdims=True) @ w) < 1e-5


def test_product_with_a_transposed_input_is_no_linear_layer(target):
    def product(bb: relax.BlockBuilder, params: list[relax.Var]) -> relax.Expr:
        return relax.op.matmul(params[0], relax.op.permute_dims(params[1], [1, 0]))

    rng = np.random.default_rng(0)
    shapes = {"x": (3, 5), "y": (7, 5)}
    values = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    (got,) = run(graph(product, shapes, {}), target, values)
    assert relative(got, values["x"].astype(np.float64) @ values["y"].T) < 1e-5


def test_cross_attention_is_computed_without_a_kernel_of_its_own(target):
    rng = np.random.default_rng(0)
    shapes = {"q": (2, 5, 3, 8), "k": (2, 7, 3, 8), "v": (2, 7, 3, 8), "bias": (2, 1, 5, 7)}
    values = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}

    def cross(bb: relax.BlockBuilder, params: list[relax.Var]) -> relax.Expr:
        return relax.op.nn.attention(*params)

    (got,) = run(graph(cross, shapes, {}), target, values)
    q, k, v = (values[n].transpose(0, 2, 1, 3).astype(np.float64) for n in "qkv")
    e = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(8) + values["bias"])
    assert relative(got, (e / e.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3)) < 1e-5


@pytest.mark.parametrize(
    ("op", "reference"),
    [
        (lambda x: relax.op.nn.softmax(x, axis=1), None),
        (lambda x: relax.op.nn.softmax(x, axis=-1), None),
        (relax.op.nn.relu, lambda x: np.maximum(x, 0)),
        (relax.op.tanh, np.tanh),
        (lambda x: relax.op.squeeze(relax.op.expand_dims(x, 2), [2]), lambda x: x),
        (lambda x: relax.op.astype(relax.op.abs(relax.op.astype(x, "int32")), "float32"),
         lambda x: np.abs(np.trunc(x))),
    ],
    ids=["softmax-axis1", "softmax", "relu", "tanh", "views", "int32"],
)  # fmt: skip
def test_single_operators(target, op, reference):
    x = (3 * np.random.default_rng(0).standard_normal((3, 5, 7))).astype(np.float32)
    model = graph(lambda bb, params: op(params[0]), {"x": x.shape}, {})
    (got,) = run(model, target, {"x": x})
    if reference is None:  # softmax sums to one along its axis and orders as exp does
        axis = 1 if np.allclose(got.sum(1), 1, atol=1e-5) else -1
        e = np.exp(x.astype(np.float64))
        np.testing.assert_allclose(got, e / e.sum(axis, keepdims=True), atol=1e-6)
    else:
        np.testing.assert_allclose(got, reference(x), atol=1e-6)


def test_views_cost_no_kernel(target):
    def views(bb: relax.BlockBuilder, params: list[relax.Var]) -> relax.Expr:
        flat = bb.emit(relax.op.flatten(relax.op.nn.relu(params[0])))
        return relax.op.nn.relu(relax.op.expand_dims(flat, 0))

    assert [k.count for k in kernels(lower(graph(views, {"x": (4, 6)}, {}), target))] == [1, 1]


def test_int8_kernels_of_earlier_passes_stay_and_take_the_epilogue(target):
    rng = np.random.default_rng(0)
    m, k, n, nb = 5, 20, 24, target.block
    q = rng.integers(-127, 128, (n, k)).astype(np.int8)
    packed, sums = pack_int8(q, nb)
    scale = rng.uniform(0.01, 0.02, n).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32)

    def int8(bb: relax.BlockBuilder, params: list[relax.Var]) -> relax.Expr:
        x, w, wscale, wsum, b = params
        types = [relax.TensorType([m, k], "uint8"), relax.TensorType([m], "float32")]
        types.append(relax.TensorType([m], "int32"))
        rows = bb.emit(relax.call_tir(bb.add_func(quantize_rows((m,), k), "quantize"), [x], types))
        parts = [bb.emit(relax.TupleGetItem(rows, i)) for i in range(3)]
        product = bb.add_func(dense_int8((m,), k, n, nb), "linear_int8")
        out = relax.TensorType([m, n], "float32")
        y = bb.emit(relax.call_tir(product, [*parts, w, wscale, wsum], out))
        return relax.op.nn.relu(relax.op.add(y, b))

    weights = {"w": packed, "wscale": scale, "wsum": sums, "b": bias}
    model = graph(int8, {"x": (m, k)}, weights)
    assert [k.name for k in kernels(lower(model, target))] == ["quantize", "linear_int8_add_relu"]
    x = rng.standard_normal((m, k)).astype(np.float32)
    (got,) = run(model, target, {"x": x})
    exact = np.maximum(x @ (q * scale[:, None]).T + bias, 0)
    assert relative(got, exact) < 2e-2
