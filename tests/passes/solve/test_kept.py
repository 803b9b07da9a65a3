"""A layer on some of its inputs: the refit of the structured solvers, ready for a format."""

from __future__ import annotations

import numpy as np

from passes.formats import Dense
from passes.solve.gram import Gram
from passes.solve.kept import on_kept_inputs
from passes.solve.site import Affine, solve_ffn, solve_linear

rng = np.random.default_rng(0)
DENSE = rng.standard_normal((300, 5)) @ rng.standard_normal((5, 12)) + 1
COMPRESSED = DENSE + 0.3 * rng.standard_normal(DENSE.shape) + 0.2
LAYER = Affine(rng.standard_normal((6, 12)).astype(np.float32), np.ones(6, np.float32))


def test_the_same_as_the_structured_solver():
    gram = Gram(12).add(COMPRESSED, DENSE)
    solved = solve_ffn(Affine(np.ones((12, 3), np.float32)), LAYER, gram, 7)
    layer, kept = on_kept_inputs(LAYER, gram, solved.keep)
    np.testing.assert_allclose(layer.weight, solved.down.weight[:, solved.keep], rtol=1e-5)
    np.testing.assert_allclose(layer.bias, solved.down.bias, rtol=1e-5)
    assert kept.features == 7
    assert not kept.changed
    again = solve_linear(layer, kept, Dense())
    np.testing.assert_allclose(again.weight, layer.weight, rtol=1e-6)
    np.testing.assert_allclose(again.bias, layer.bias, rtol=1e-5)


def test_any_order_of_the_inputs():
    gram = Gram(12).add(COMPRESSED, DENSE)
    order = np.array([8, 1, 5])
    moved, sorted_ = (on_kept_inputs(LAYER, gram, k)[0] for k in (order, np.sort(order)))
    np.testing.assert_allclose(moved.weight, sorted_.weight[:, np.argsort(np.argsort(order))])


def test_all_inputs_without_change_are_the_layer_itself():
    gram = Gram(12).add(DENSE)
    layer, same = on_kept_inputs(LAYER, gram, np.arange(12))
    assert layer is LAYER
    assert same is gram
    residual = rng.standard_normal((300, 6))
    shifted, _ = on_kept_inputs(LAYER, Gram(12).add(DENSE, None, residual), np.arange(12))
    wanted = DENSE @ LAYER.weight.T + LAYER.bias + residual
    before, after = (
        np.square(DENSE @ x.weight.T + x.bias - wanted).sum() for x in (LAYER, shifted)
    )
    assert after < before
