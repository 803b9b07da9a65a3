"""Activations in all their spellings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax, te, topi

from passes.model import Model
from passes.normalize import normalize

op = relax.op
SHAPE = (3, 7)


def number(value: float) -> relax.Expr:
    return relax.const(value, "float32")


def relu6(bb: relax.BlockBuilder, x: relax.Var) -> relax.Var:
    return bb.emit(op.clip(x, 0, 6))


def relu6_of_relu(bb: relax.BlockBuilder, x: relax.Var) -> relax.Var:
    return bb.emit(op.minimum(bb.emit(op.nn.relu(x)), number(6)))


def relu6_in_two_steps(bb: relax.BlockBuilder, x: relax.Var) -> relax.Var:
    low = bb.emit(op.clip(x, 0, float("inf")))
    return bb.emit(op.clip(low, float("-inf"), 6))


def relu6_by_kernels(bb: relax.BlockBuilder, x: relax.Var) -> relax.Var:
    """As TVM's ONNX importer writes it."""
    low = bb.emit_te(topi.maximum, x, number(0))
    return bb.emit_te(topi.minimum, low, number(6))


def hard_sigmoid(bb: relax.BlockBuilder, x: relax.Var) -> relax.Var:
    """As ONNX defines HardSigmoid."""
    scaled = bb.emit(op.multiply(number(1 / 6), x))
    return bb.emit(op.clip(bb.emit(op.add(scaled, number(0.5))), 0, 1))


def hard_sigmoid_divided(bb: relax.BlockBuilder, x: relax.Var) -> relax.Var:
    return bb.emit(op.divide(relu6(bb, bb.emit(op.add(x, number(3)))), number(6)))


def hard_swish(bb: relax.BlockBuilder, x: relax.Var) -> relax.Var:
    return bb.emit(op.multiply(x, hard_sigmoid(bb, x)))


def hard_swish_divided_first(bb: relax.BlockBuilder, x: relax.Var) -> relax.Var:
    return bb.emit(op.multiply(x, hard_sigmoid_divided(bb, x)))


def hard_swish_divided_last(bb: relax.BlockBuilder, x: relax.Var) -> relax.Var:
    product = bb.emit(op.multiply(x, relu6_in_two_steps(bb, bb.emit(op.add(x, number(3))))))
    return bb.emit(op.divide(product, number(6)))


def silu(bb: relax.BlockBuilder, x: relax.Var) -> relax.Var:
    return bb.emit(op.nn.silu(x))


def silu_in_parts(bb: relax.BlockBuilder, x: relax.Var) -> relax.Var:
    return bb.emit(op.multiply(bb.emit(op.sigmoid(x)), x))


def relu(bb: relax.BlockBuilder, x: relax.Var) -> relax.Var:
    return bb.emit(op.nn.relu(x))


def relu_as_maximum(bb: relax.BlockBuilder, x: relax.Var) -> relax.Var:
    return bb.emit(op.maximum(number(0), x))


def relu_twice(bb: relax.BlockBuilder, x: relax.Var) -> relax.Var:
    return bb.emit(op.clip(bb.emit(op.nn.relu(x)), -3, float("inf")))


Spelling = Callable[[relax.BlockBuilder, relax.Var], relax.Var]


def canonical(sketch: Callable[..., Model], spelling: Spelling) -> Model:
    return normalize(sketch(SHAPE, {}, lambda s: [spelling(s.bb, s.x)]))


@pytest.mark.parametrize(
    ("spellings", "reference"),
    [
        ([relu6, relu6_of_relu, relu6_in_two_steps, relu6_by_kernels], lambda x: np.clip(x, 0, 6)),
        ([hard_sigmoid, hard_sigmoid_divided], lambda x: np.clip(x / 6 + 0.5, 0, 1)),
        (
            [hard_swish, hard_swish_divided_first, hard_swish_divided_last],
            lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
        ),
        ([silu, silu_in_parts], lambda x: x / (1 + np.exp(-x))),
        ([relu, relu_as_maximum, relu_twice], lambda x: np.maximum(x, 0)),
    ],
)
def test_all_spellings_of_an_activation_become_one(
    sketch: Callable, execute: Callable, spellings: list[Spelling], reference: Callable
) -> None:
    models = [canonical(sketch, s) for s in spellings]
    for model in models[1:]:
        tvm.ir.assert_structural_equal(model.main, models[0].main)
    x = np.linspace(-9, 9, 21).reshape(SHAPE).astype(np.float32)
    (got,) = execute(models[-1], {"x": x})
    np.testing.assert_allclose(got, reference(x.astype(np.float64)), rtol=0, atol=1e-6)


def test_limits_that_are_tensors_stay(sketch: Callable, execute: Callable) -> None:
    bound = np.array([-1, 0, 1, 2, 3, 4, 5], np.float32)
    model = normalize(
        sketch(SHAPE, {"b": bound}, lambda s: [s.bb.emit(op.maximum(s.params["b"], s.x))])
    )
    assert "R.maximum" in model.mod.script()
    x = np.linspace(-9, 9, 21).reshape(SHAPE).astype(np.float32)
    np.testing.assert_array_equal(execute(model, {"x": x})[0], np.maximum(x, bound))


def test_a_kernel_that_is_no_operator_stays(sketch: Callable, execute: Callable) -> None:
    def shifted(x: te.Tensor, y: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda i, j: te.max(x[i, (j + 1) % 7], y[()]))

    model = canonical(sketch, lambda bb, x: bb.emit_te(shifted, x, number(0)))
    assert "R.call_tir" in model.mod.script()
    x = np.linspace(-9, 9, 21).reshape(SHAPE).astype(np.float32)
    np.testing.assert_array_equal(
        execute(model, {"x": x})[0], np.maximum(np.roll(x, -1, axis=1), 0)
    )


def test_what_is_nearly_hard_swish_is_left_alone(sketch: Callable) -> None:
    def nearly(bb: relax.BlockBuilder, x: relax.Var) -> relax.Var:
        gate = relu6(bb, bb.emit(op.add(x, number(2.5))))
        return bb.emit(op.divide(bb.emit(op.multiply(x, gate)), number(6)))

    assert "R.divide" in canonical(sketch, nearly).mod.script()
