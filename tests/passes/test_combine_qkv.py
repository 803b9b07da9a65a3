"""Three projections become one, exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tvm import relax

from codesign.frontend.parity import compare
from codesign.frontend.samples import draw
from passes.combine_qkv import combine_qkv
from passes.model import Model
from passes.normalize import normalize
from passes.patterns import Flow


def test_q_k_and_v_rows_follow_each_other_in_one_weight(foreign_example: Callable) -> None:
    separate = normalize(foreign_example("bert").model)
    model = combine_qkv(separate)
    prefix = "inner.encoder.layer.0.attention.self."
    for kind in ("weight", "bias"):
        parts = [separate.weights[f"{prefix}{p}.{kind}"] for p in ("query", "key", "value")]
        joined = model.weights[f"{prefix}query.{kind}+k+v"]
        np.testing.assert_array_equal(joined, np.concatenate(parts))
    assert not any(n.startswith(prefix) and "+" not in n for n in model.weights)
    assert len(model.weights) == len(separate.weights) - 8
    assert len(Flow(model).linears()) == 8


def test_the_attention_reads_thirds_of_the_joined_layer(foreign_example: Callable) -> None:
    flow = Flow(combine_qkv(normalize(foreign_example("distilbert").model)))
    attentions = flow.attentions()
    assert len(attentions) == 2
    for core in attentions:
        sources = {flow.third(v, i) for i, v in enumerate((core.q, core.k, core.v))}
        (source,) = sources
        match = flow.linear(source)
        assert match is not None
        assert (match.out_features, match.in_features, match.rows) == (144, 48, 34)


def test_the_combined_model_computes_the_same(foreign_example: Callable, execute: Callable) -> None:
    separate = normalize(foreign_example("bert").model)
    model = combine_qkv(separate)
    feeds = draw(model, seed=5)
    expected = foreign_example("bert").reference(feeds)
    parity = compare(execute(model, feeds), expected, 1e-5, "PyTorch")
    assert parity.holds, parity


def test_a_layer_that_is_joined_already_is_left_alone(foreign_example: Callable) -> None:
    model = normalize(foreign_example("encoder post").model)
    assert combine_qkv(model) is model


@pytest.mark.parametrize("biased", ["q", "v", ""])
def test_a_missing_bias_is_filled_with_zeros(biased: str) -> None:
    model = combine_qkv(_one_attention(biased))
    names = [n for n in model.weights if n.endswith(".b+k+v")]
    assert names == ([f"{biased}.b+k+v"] if biased else [])
    if biased:
        thirds = np.split(model.weights[names[0]], 3)
        for part, third in zip("qkv", thirds, strict=True):
            assert (third != 0).all() == (part == biased)


def test_cross_attention_keeps_its_layers() -> None:
    model = _one_attention("", cross=True)
    assert combine_qkv(model) is model


def _one_attention(biased: str, cross: bool = False) -> Model:
    """Self-attention (or cross-attention) of width 8 with two heads and one bias at most."""
    from passes.model import TensorSpec

    rng = np.random.default_rng(0)
    bb, op = relax.BlockBuilder(), relax.op
    shape = (2, 5, 8)
    inputs = [relax.Var(n, relax.TensorType(shape, "float32")) for n in ("x", "other")]
    weights: dict[str, np.ndarray] = {}
    params: dict[str, relax.Var] = {}

    def weight(name: str, *size: int) -> relax.Var:
        weights[name] = rng.standard_normal(size).astype(np.float32)
        params[name] = relax.Var(name, relax.TensorType(size, "float32"))
        return params[name]

    def project(name: str, x: relax.Var) -> relax.Var:
        y = bb.emit(op.matmul(x, bb.emit(op.permute_dims(weight(f"{name}.w", 8, 8), [1, 0]))))
        y = bb.emit(op.add(y, weight(f"{name}.b", 8))) if name == biased else y
        return bb.emit(op.reshape(y, (2, 5, 2, 4)))

    with bb.function("main"):
        with bb.dataflow():
            q, k, v = (project(n, inputs[1] if cross and n != "q" else inputs[0]) for n in "qkv")
            mixed = bb.emit(op.nn.attention(q, k, v, scale=0.5))
            joined = bb.emit(op.reshape(mixed, shape))
            other = bb.emit(op.add(joined, inputs[1]))
            out = bb.emit_output(relax.Tuple([other]))
        bb.emit_func_output(out, params=[*inputs, *params.values()])
    specs = tuple(TensorSpec(v.name, shape, "float32") for v in inputs)
    return Model(bb.get(), weights, specs, (TensorSpec("y", shape, "float32"),)).check("the test")
