"""Views against NumPy: chains of reshapes and transposes, composed, must read the same numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.normalize.views import View


@st.composite
def shapes(draw: st.DrawFn, size: int) -> tuple[int, ...]:
    """A shape of this size, with some axes of length 1."""
    shape: list[int] = []
    while size > 1:
        axis = draw(st.sampled_from([n for n in range(2, size + 1) if size % n == 0]))
        shape.append(axis)
        size //= axis
    for _ in range(draw(st.integers(0, 2))):
        shape.insert(draw(st.integers(0, len(shape))), 1)
    return tuple(shape)


@st.composite
def chains(draw: st.DrawFn) -> tuple[View, np.ndarray, np.ndarray]:
    """A view made by a random chain, the base and what NumPy makes of it."""
    size = draw(st.sampled_from([1, 12, 24, 36, 60]))
    base = np.arange(size).reshape(draw(shapes(size)))
    view, array = View.of(base.shape), base
    for _ in range(draw(st.integers(0, 5))):
        if draw(st.booleans()) and array.ndim:
            axes = tuple(draw(st.permutations(range(array.ndim))))
            view, array = view.permute(axes), array.transpose(axes)
            continue
        shape = draw(shapes(size))
        found = view.reshape(shape)
        if found is not None:
            view, array = found, array.reshape(shape)
    return view, base, array


def read(view: View, base: np.ndarray) -> np.ndarray:
    first, axes, last = view.steps()
    array = base.reshape(first)
    return (array if axes is None else array.transpose(axes)).reshape(last)


@settings(max_examples=200, deadline=None)
@given(chains())
def test_steps_of_a_composed_view_read_what_the_chain_reads(chain: tuple) -> None:
    view, base, array = chain
    np.testing.assert_array_equal(read(view, base), array)


@settings(max_examples=200, deadline=None)
@given(chains())
def test_a_chain_that_changes_no_order_needs_no_permutation(chain: tuple) -> None:
    view, base, array = chain
    assert view.in_order == np.array_equal(array.ravel(), base.ravel())


@settings(max_examples=200, deadline=None)
@given(chains(), st.integers(1, 5))
def test_a_product_over_the_last_axis_can_be_taken_on_the_base(chain: tuple, width: int) -> None:
    view, base, array = chain
    below = view.trailing()
    if below is None:
        return
    weight = np.random.default_rng(0).integers(0, 9, (array.shape[-1], width))
    product = base.reshape(below.shape) @ weight
    moved = view.with_last(product.shape, width)
    np.testing.assert_array_equal(read(moved, product), array @ weight)


def test_reshapes_that_cross_a_permuted_axis_are_refused() -> None:
    turned = View.of((2, 3)).permute((1, 0))
    assert turned.reshape((2, 3)) is None
    assert turned.reshape((3, 2, 1)) is not None
