"""Every exporter's graph reaches the one canonical form and still computes the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from codesign.frontend.foreign import Foreign
from codesign.frontend.parity import compare
from codesign.frontend.samples import draw
from passes.errors import PassError
from passes.model import Model, TensorSpec
from passes.normalize import normalize

ENCODERS = [
    "bert",
    "bert sdpa",
    "bert (onnx)",
    "bert sdpa (onnx)",
    "distilbert",
    "vit",
    "vit (onnx)",
    "encoder post",
    "encoder pre",
    "encoder pre (onnx)",
    "encoder sequence first",
]


def operators(model: Model) -> Counter[str]:
    """How often each operator occurs; permutations of weights apart from those of activations."""
    script = model.mod.script()
    found = Counter(re.findall(r"= R\.([\w.]+)\(", script))
    weights = {p.name for p in model.main.params[len(model.inputs) :]}
    for block in model.main.body.blocks:
        for binding in block.bindings:
            call = binding.value
            if isinstance(call, relax.Call) and call.op.name == "relax.permute_dims":
                kind = "of weight" if call.args[0].name in weights else "of activation"
                found[f"permute_dims {kind}"] += 1
    return found


@pytest.mark.parametrize("name", ENCODERS)
def test_layers_of_every_encoder_are_canonical(foreign_example: Callable, name: str) -> None:
    model = normalize(foreign_example(name).model)
    found = operators(model)
    fused = name.startswith("encoder")
    patches = name.startswith("vit")
    linears = (8 if fused else 12) + patches
    assert found["matmul"] == found["permute_dims of weight"] == linears
    assert found["nn.attention"] + found["nn.attention_bias"] == 2
    assert found["nn.softmax"] == 0
    assert found["nn.layer_norm"] == (4 if fused else 5)
    assert found["nn.gelu"] + found["nn.relu"] == 2
    # ViT cuts its image into patches once; sequence first is turned once on each side
    turned = {"vit": 1, "vit (onnx)": 1, "encoder sequence first": 2}.get(name, 0)
    assert found["permute_dims of activation"] == turned
    attention = next(v for v in _values(model) if _op(v).startswith("relax.nn.attention"))
    assert [int(n) for n in attention.ty.shape.values][:2] == [2, 17]
    assert len({b.var.name for b in _bindings(model)}) == len(_bindings(model))


def test_all_canonical_encoders_compute_what_the_originals_do(foreign_example: Callable) -> None:
    canonical = {name: normalize(foreign_example(name).model) for name in ENCODERS}
    machine = compiled_together(canonical)
    for index, (name, model) in enumerate(canonical.items()):
        foreign: Foreign = foreign_example(name)
        feeds = draw(foreign.model, seed=3)
        values = [*(feeds[s.name] for s in model.inputs), *model.weights.values()]
        outputs = machine[f"f{index}"](*(tvm.runtime.tensor(v) for v in values))
        got = [t.numpy() for t in outputs]
        parity = compare(got, foreign.reference(feeds), 1e-5, foreign.original)
        assert parity.holds, (name, parity)


def compiled_together(models: dict[str, Model]) -> relax.VirtualMachine:
    """One build for all: kernels of the same shapes are compiled once."""
    functions = {
        tvm.ir.GlobalVar(f"f{i}"): m.main.with_attr("global_symbol", f"f{i}")
        for i, m in enumerate(models.values())
    }
    target = tvm.target.Target({"kind": "llvm", "opt-level": 0})
    return relax.VirtualMachine(relax.build(tvm.IRModule(functions), target=target), tvm.cpu())


def test_a_mask_reaches_attention_unbroadcast(foreign_example: Callable) -> None:
    for name in ("bert", "bert sdpa", "bert (onnx)"):
        model = normalize(foreign_example(name).model)
        calls = [v for v in _values(model) if _op(v) == "relax.nn.attention_bias"]
        assert len(calls) == 2
        assert calls[0].args[3].same_as(calls[1].args[3])
        assert [int(n) for n in calls[0].args[3].ty.shape.values] == [2, 1, 1, 17]


def test_a_model_is_left_as_it_is_and_canonical_form_is_a_fixed_point(
    foreign_example: Callable,
) -> None:
    imported: Model = foreign_example("bert").model
    before = imported.mod.script()
    once = normalize(imported)
    assert imported.mod.script() == before
    twice = normalize(once)
    assert operators(twice) == operators(once)
    assert list(twice.weights) == list(once.weights)


def build(
    shape: tuple[int, ...],
    body: Callable[[relax.BlockBuilder, relax.Var, dict[str, relax.Var]], relax.Expr],
    **weights: np.ndarray,
) -> Model:
    """A model of one float input x and the given weights."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    arrays = {n: np.asarray(w, np.float32) for n, w in weights.items()}
    params = {n: relax.Var(n, relax.TensorType(w.shape, "float32")) for n, w in arrays.items()}
    with builder.function("main", [x, *params.values()]):
        with builder.dataflow():
            out = builder.emit_output(relax.Tuple([builder.emit(body(builder, x, params))]))
        builder.emit_func_output(out)
    outputs = builder.get()["main"].ret_ty.fields
    return Model(
        builder.get(),
        arrays,
        (TensorSpec("x", shape, "float32"),),
        (TensorSpec("y", tuple(int(n) for n in outputs[0].shape.values), "float32"),),
    ).check("the test")


def number(value: float) -> relax.Expr:
    return relax.const(value, "float32")


def gelu_erf(bb: relax.BlockBuilder, x: relax.Var, _: dict[str, relax.Var]) -> relax.Expr:
    op, emit = relax.op, bb.emit
    gate = emit(op.add(emit(op.erf(emit(op.divide(x, number(2**0.5))))), number(1.0)))
    return op.multiply(emit(op.multiply(x, gate)), number(0.5))


def gelu_erf_half_first(
    bb: relax.BlockBuilder, x: relax.Var, _: dict[str, relax.Var]
) -> relax.Expr:
    op, emit = relax.op, bb.emit
    gate = emit(op.add(number(1.0), emit(op.erf(emit(op.multiply(x, number(0.5**0.5)))))))
    return op.multiply(emit(op.multiply(number(0.5), x)), gate)


def gelu_tanh(bb: relax.BlockBuilder, x: relax.Var, _: dict[str, relax.Var]) -> relax.Expr:
    op, emit = relax.op, bb.emit
    cubic = emit(op.multiply(number(0.044715), emit(op.power(x, number(3.0)))))
    inner = emit(op.multiply(number((2 / np.pi) ** 0.5), emit(op.add(x, cubic))))
    gate = emit(op.add(number(1.0), emit(op.tanh(inner))))
    return op.multiply(emit(op.multiply(number(0.5), x)), gate)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (gelu_erf, "relax.nn.gelu"),
        (gelu_erf_half_first, "relax.nn.gelu"),
        (gelu_tanh, "relax.nn.gelu_tanh"),
    ],
)
def test_gelu_in_its_parts_is_recognised(body: Callable, name: str) -> None:
    model = normalize(build((3, 7), body))
    assert [_op(v) for v in _values(model) if _op(v)] == [name]


def test_what_is_nearly_gelu_is_left_alone() -> None:
    def body(bb: relax.BlockBuilder, x: relax.Var, _: dict[str, relax.Var]) -> relax.Expr:
        op, emit = relax.op, bb.emit
        gate = emit(op.add(emit(op.erf(emit(op.multiply(x, number(0.9))))), number(1.0)))
        return op.multiply(emit(op.multiply(x, gate)), number(0.5))

    assert "relax.erf" in [_op(v) for v in _values(normalize(build((3, 7), body)))]


def test_layer_norm_in_its_parts_is_recognised() -> None:
    def body(bb: relax.BlockBuilder, x: relax.Var, w: dict[str, relax.Var]) -> relax.Expr:
        op, emit = relax.op, bb.emit
        centred = emit(op.subtract(x, emit(op.mean(x, [-1], keepdims=True))))
        square = emit(op.power(centred, number(2.0)))
        variance = emit(op.mean(square, [-1], keepdims=True))
        root = emit(op.sqrt(emit(op.add(variance, number(1e-6)))))
        scaled = emit(op.multiply(emit(op.divide(centred, root)), w["gain"]))
        return op.add(scaled, w["shift"])

    gain, shift = np.arange(5) + 1.0, np.arange(5) - 2.0
    model = normalize(build((2, 3, 5), body, gain=gain, shift=shift))
    (norm,) = (v for v in _values(model) if _op(v))
    assert _op(norm) == "relax.nn.layer_norm"
    assert float(norm.attrs.epsilon) == pytest.approx(1e-6)
    np.testing.assert_array_equal(list(model.weights.values()), [gain, shift])


def test_masked_fill_becomes_a_bias_of_attention() -> None:
    def body(bb: relax.BlockBuilder, x: relax.Var, w: dict[str, relax.Var]) -> relax.Expr:
        op, emit = relax.op, bb.emit
        scores = emit(
            op.divide(emit(op.matmul(x, emit(op.permute_dims(x, [0, 1, 3, 2])))), number(2))
        )
        hidden = emit(op.less(emit(op.take(x, relax.const(0, "int64"), axis=3)), number(0.0)))
        masked = emit(op.where(emit(op.reshape(hidden, (2, 3, 1, 5))), number(-np.inf), scores))
        return op.matmul(emit(op.nn.softmax(masked, axis=-1)), x)

    model = normalize(build((2, 3, 5, 4), body))
    (attention,) = (v for v in _values(model) if _op(v) == "relax.nn.attention_bias")
    assert float(attention.attrs.scale) == pytest.approx(0.5)
    assert [int(n) for n in attention.args[3].ty.shape.values] == [2, 3, 1, 5]


def test_a_look_up_of_every_position_in_order_is_a_reshape() -> None:
    def body(bb: relax.BlockBuilder, x: relax.Var, w: dict[str, relax.Var]) -> relax.Expr:
        inner = bb.emit(relax.op.take(x, relax.const(np.arange(6).reshape(2, 3)), axis=1))
        return relax.op.take(inner, relax.const(np.array([0, 1, 2, 4, 3])), axis=3)

    model = normalize(build((7, 6, 5), body))
    assert [_op(v) for v in _values(model) if _op(v)] == ["relax.reshape", "relax.take"]


def test_a_weight_that_two_layers_share_is_given_to_each(foreign_example: Callable) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Var, w: dict[str, relax.Var]) -> relax.Expr:
        op, emit = relax.op, bb.emit
        matrix = emit(op.permute_dims(w["matrix"], [1, 0]))
        once = emit(op.add(w["vector"], emit(op.matmul(x, matrix))))
        return op.add(emit(op.matmul(once, matrix)), w["vector"])

    matrix, vector = np.eye(4) * 2, np.arange(4)
    model = normalize(build((3, 4), body, matrix=matrix, vector=vector))
    assert list(model.weights) == ["matrix", "vector", "matrix.2", "vector.2"]
    np.testing.assert_array_equal(model.weights["matrix.2"], matrix)


def test_a_model_with_a_branch_is_refused_by_name() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2,), "float32"))
    flag = relax.Var("flag", relax.TensorType((), "bool"))
    with builder.function("main", [x, flag]):
        branch = relax.If(flag, relax.SeqExpr([], x), relax.SeqExpr([], x))
        builder.emit_func_output(relax.Tuple([builder.emit(branch)]))
    inputs = (TensorSpec("x", (2,), "float32"), TensorSpec("flag", (), "bool"))
    model = Model(builder.get(), {}, inputs, (TensorSpec("y", (2,), "float32"),))
    with pytest.raises(PassError, match="branches"):
        normalize(model)


def _bindings(model: Model) -> list[relax.Binding]:
    return [b for block in model.main.body.blocks for b in block.bindings]


def _values(model: Model) -> list[relax.Expr]:
    return [b.value for b in _bindings(model)]


def _op(value: relax.Expr) -> str:
    return str(getattr(getattr(value, "op", None), "name", ""))
