"""Solvers of whole sites: right structure, biases and grids, and outputs near the dense ones."""

from __future__ import annotations

import numpy as np
import pytest

from passes.errors import PassError
from passes.formats import DENSE, Balanced, Format
from passes.int8 import Int8
from passes.solve.gptq import codes_of
from passes.solve.gram import Gram
from passes.solve.obs import kept_inputs
from passes.solve.site import (
    Affine,
    solve_ffn,
    solve_ffn_widths,
    solve_formats,
    solve_head_counts,
    solve_heads,
    solve_linear,
)
from passes.sparse import Sparse

ROWS = 600


def inputs(rng, k):
    """Correlated rows with means far from 0, and what a compressed model makes of them."""
    causes = rng.standard_normal((ROWS, k // 2))
    noise = 0.2 * rng.standard_normal((ROWS, k))
    dense = causes @ rng.standard_normal((k // 2, k)) + noise
    dense = np.maximum(dense, -0.2) + 1
    return dense, 0.9 * dense + 0.1 * rng.standard_normal((ROWS, k)) + 0.3


def layer(rng, n, k, bias=True):
    W = rng.standard_normal((n, k)).astype(np.float32)
    return Affine(W, rng.standard_normal(n).astype(np.float32) if bias else None)


def apply(x, weight, bias):
    y = x @ weight.astype(np.float64).T
    return y if bias is None else y + bias


def loss(x, weight, bias, wanted):
    return np.square(apply(x, weight, bias) - wanted).sum() / np.square(wanted).sum()


def a_format(bits: int, density: float) -> Format:
    if bits == 8:
        return Int8(density, 8)
    return DENSE if density == 1 else Sparse(density, 8)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("density", [1.0, 0.5])
@pytest.mark.parametrize("bits", [32, 8])
def test_linear_on_drifted_inputs(bits, density, bias):
    rng, form = np.random.default_rng(0), a_format(bits, density)
    structure = form.structure
    dense, compressed = inputs(rng, 30)
    fc = layer(rng, 20, 30, bias)
    solved = solve_linear(fc, Gram(30).add(compressed, dense), form)
    wanted = apply(dense, *fc)
    blind = solve_linear(fc, Gram(30).add(compressed), form)
    error = loss(compressed, solved.weight, solved.bias, wanted)
    share = 0.9 if structure is None else 0.97
    assert error < share * loss(compressed, blind.weight, blind.bias, wanted)
    assert (structure is None) == (error < 0.01)
    assert (solved.bias is None) == (not bias)
    assert (solved.mask is None) == (structure is None)
    assert (solved.scale is None) == (bits == 32)
    if bias:
        mean = apply(compressed, solved.weight, solved.bias).mean(axis=0)
        np.testing.assert_allclose(mean, wanted.mean(axis=0), atol=1e-3)
    if solved.scale is not None:
        codes_of(solved.weight, solved.scale)
    if solved.mask is not None:
        assert isinstance(structure, Balanced)
        assert solved.mask.shape == (3, -(-30 // structure.group))
        assert (solved.mask.sum(axis=1) == structure.kept(30)).all()
        kept = np.repeat(kept_inputs(solved.mask, structure.group, 30), 8, axis=0)[:20]
        assert (solved.weight[~kept] == 0).all()


def test_a_free_bias_makes_pruning_cheaper():
    rng = np.random.default_rng(1)
    dense, _ = inputs(rng, 24)
    dense[:, ::3] = 5 + 0.01 * dense[:, ::3]  # nearly constant inputs: a bias replaces them
    fc = layer(rng, 8, 24)
    gram = Gram(24).add(dense)
    with_bias = solve_linear(fc, gram, Sparse(0.5, 8))
    without = solve_linear(Affine(fc.weight), gram, Sparse(0.5, 8))
    wanted = apply(dense, *fc)
    better = loss(dense, with_bias.weight, with_bias.bias, wanted)
    assert better < 0.75 * loss(dense, without.weight, fc.bias, wanted)


def test_formats_share_a_descent_and_keep_their_order():
    rng = np.random.default_rng(2)
    dense, _ = inputs(rng, 32)
    fc, gram = layer(rng, 16, 32), Gram(32).add(dense)
    forms = [a_format(b, d) for d in (0.25, 1.0, 0.5) for b in (8, 32)]
    solved = solve_formats(fc, gram, forms)
    assert [s.format for s in solved] == forms
    wanted = apply(dense, *fc)
    errors = {s.format: loss(dense, s.weight, s.bias, wanted) for s in solved}
    assert errors[forms[5]] < errors[forms[1]]
    assert errors[forms[4]] < errors[forms[0]]
    alone = solve_linear(fc, gram, forms[1])
    np.testing.assert_allclose(solved[1].weight, alone.weight, atol=1e-6)


def test_ffn():
    rng = np.random.default_rng(3)
    dense, compressed = inputs(rng, 26)
    up, down = layer(rng, 26, 5), layer(rng, 7, 26)
    gram = Gram(26).add(compressed, dense)
    solved = solve_ffn(up, down, gram, 11)
    assert len(solved.keep) == 11
    gone = np.setdiff1d(np.arange(26), solved.keep)
    assert not solved.up.weight[gone].any()
    assert not solved.up.bias[gone].any()
    assert not solved.down.weight[:, gone].any()
    np.testing.assert_array_equal(solved.up.weight[solved.keep], up.weight[solved.keep])
    wanted = apply(dense, *down)
    cut = np.where(np.isin(np.arange(26), solved.keep), down.weight, 0)
    refitted = loss(compressed, *solved.down, wanted)
    assert refitted < 0.5 * loss(compressed, cut, down.bias, wanted)
    wider, same = solve_ffn_widths(up, down, gram, [18, 11])
    np.testing.assert_array_equal(same.keep, solved.keep)
    assert np.isin(solved.keep, wider.keep).all()
    assert loss(compressed, *wider.down, wanted) < refitted


def test_heads():
    rng = np.random.default_rng(4)
    dense, compressed = inputs(rng, 20)
    qkv, out = layer(rng, 60, 9, bias=False), layer(rng, 9, 20)
    gram = Gram(20).add(compressed, dense)
    solved = solve_heads(qkv, out, gram, heads=5, head_dim=4, keep=3)
    assert solved.qkv.bias is None
    gone = np.setdiff1d(np.arange(5), solved.keep)
    assert not solved.qkv.weight.reshape(3, 5, 4, 9)[:, gone].any()
    kept = solved.qkv.weight.reshape(3, 5, 4, 9)[:, solved.keep]
    np.testing.assert_array_equal(kept, qkv.weight.reshape(3, 5, 4, 9)[:, solved.keep])
    assert not solved.out.weight.reshape(9, 5, 4)[:, gone].any()
    wanted = apply(dense, *out)
    more, fewer = solve_head_counts(qkv, out, gram, 5, 4, [4, 2])
    errors = [loss(compressed, *s.out, wanted) for s in (more, solved, fewer)]
    assert errors == sorted(errors)


def test_bad_inputs_are_named():
    rng = np.random.default_rng(5)
    fc, gram = layer(rng, 4, 6), Gram(6).add(rng.standard_normal((9, 6)))
    with pytest.raises(PassError, match="without calibration data"):
        solve_linear(fc, Gram(6), DENSE)
    with pytest.raises(PassError, match="does not fit the weight"):
        solve_linear(fc, Gram(5).add(np.ones((2, 5))), DENSE)
    with pytest.raises(PassError, match="bias holds"):
        solve_linear(Affine(fc.weight, fc.bias * np.nan), gram, DENSE)
    with pytest.raises(PassError, match="does not fit the heads"):
        solve_heads(fc, fc, gram, 2, 4, 1)
    with pytest.raises(PassError, match="out of range"):
        solve_ffn(fc, fc, gram, 7)
