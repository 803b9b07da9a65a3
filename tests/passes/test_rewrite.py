"""Writing a graph again keeps it, and checks what an edit makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from passes.errors import PassError
from passes.rewrite import bindings_of, require_own_weights, rewrite, uses_of

WEIGHTS = {
    "a.w": np.ones((4, 4), np.float32),
    "a.b": np.ones(4, np.float32),
    "b.w": np.ones((4, 4), np.float32),
}


@pytest.fixture
def model(sketch):
    def draw(s):
        twice = s.bb.emit(relax.op.add(s.x, s.x), name_hint="twice")
        return [s.linear(twice, "a"), s.linear(twice, "b"), s.x]

    return sketch((1, 3, 4), WEIGHTS, draw)


def test_without_an_edit_nothing_changes(model):
    again = rewrite(model, model.weights, name="test")
    tvm.ir.assert_structural_equal(again.mod, model.mod)
    names = [[b.var.name for b in bindings_of(m)] for m in (model, again)]
    assert names[0] == names[1]
    assert list(again.weights) == list(WEIGHTS)


def test_an_edit_replaces_a_binding_and_dead_weights_go(model):
    def edit(graph, var, value):
        if graph.linear_weight(value) != "b.w":
            return None
        return relax.op.multiply(graph.new(value.args[0]), relax.const(3.0, "float32"))

    changed = rewrite(model, model.weights, edit, name="test")
    assert list(changed.weights) == ["a.w", "a.b"]
    ops = [b.value.op.name for b in bindings_of(changed) if isinstance(b.value, relax.Call)]
    assert ops.count("relax.matmul") == 1
    assert ops.count("relax.multiply") == 1
    assert uses_of(model, "b.w") == 1


def test_a_variable_as_value_takes_the_place_of_the_old_one(model, execute):
    def edit(graph, var, value):
        return graph.new(value.args[0]) if var.name == "twice" else None

    changed = rewrite(model, model.weights, edit, name="test")
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    got = execute(changed, {"x": x})
    np.testing.assert_array_equal(got[0], x.sum(-1, keepdims=True) + np.ones(4))
    np.testing.assert_array_equal(got[2], x)


def test_kernels_of_the_module_stay_and_equal_ones_are_shared(model):
    def edit(graph, var, value):
        if graph.linear_weight(value) is None:
            return None
        func = tvm.te.create_prim_func(_double()).without_attr("global_symbol")
        return relax.call_tir(graph.kernel(func, "double"), [graph.new(value.args[0])], value.ty)

    once = rewrite(model, model.weights, edit, name="test")
    assert [v.name_hint for v in once.mod.get_global_vars()].count("double") == 1
    assert len(list(once.mod.functions_items())) == 2
    again = rewrite(once, once.weights, name="test")
    tvm.ir.assert_structural_equal(again.mod, once.mod)


def _double():
    x = tvm.te.placeholder([tvm.tirx.IntImm("int64", d) for d in (1, 3, 4)], "float32", "x")
    return [x, tvm.te.compute(x.shape, lambda *i: x[i] * 2, "y")]


def test_an_output_of_another_shape_is_refused(model):
    wide = {"a.w": np.ones((5, 4), np.float32), "a.b": np.ones(5, np.float32)}
    with pytest.raises(PassError, match="output y0 has changed after test"):
        rewrite(model, {**WEIGHTS, **wide}, name="test")


def test_weights_of_a_site_must_be_there_and_its_own(model, sketch):
    require_own_weights(model, "fc", ["a.w", "a.b", "b.w"])
    with pytest.raises(PassError, match="no weight in the model"):
        require_own_weights(model, "fc", ["c.w"])
    shared = sketch(
        (1, 3, 4), {"a.w": WEIGHTS["a.w"]}, lambda s: [s.linear(s.linear(s.x, "a"), "a")]
    )
    with pytest.raises(PassError, match="read at 2 places"):
        require_own_weights(shared, "fc", ["a.w"])


def test_two_products_with_one_transposed_weight_are_two_uses(sketch):
    def draw(s):
        turned = s.bb.emit(relax.op.permute_dims(s.params["a.w"], [1, 0]))
        once = s.bb.emit(relax.op.matmul(s.x, turned))
        return [s.bb.emit(relax.op.matmul(once, turned))]

    assert uses_of(sketch((1, 3, 4), {"a.w": WEIGHTS["a.w"]}, draw), "a.w") == 2
