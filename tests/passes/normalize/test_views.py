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


@settings(max_examples=200, deadline=None)
@given(chains(), st.data())
def test_what_is_broadcast_against_a_view_meets_its_base_instead(
    chain: tuple, data: st.DataObject
) -> None:
    view, base, array = chain
    axes = data.draw(st.sets(st.sampled_from(range(array.ndim)))) if array.ndim else set()
    narrow = tuple(1 if axis in axes else n for axis, n in enumerate(array.shape))
    narrow = narrow[data.draw(st.integers(0, len(narrow))) :] if set(narrow) <= {1} else narrow
    operand = np.random.default_rng(0).integers(0, 99, narrow)
    steps = view.onto(narrow, view.base)
    if steps is None:
        assert view.axis_order() is None  # axes that are only permuted can always be followed
        return
    moved = operand.reshape(steps[0]).transpose(steps[1]).reshape(steps[2])
    assert moved.size == operand.size
    np.testing.assert_array_equal(read(view, base + moved), array + operand)


@settings(max_examples=200, deadline=None)
@given(chains(), st.booleans(), st.data())
def test_a_reduction_is_taken_on_the_base(
    chain: tuple, keepdims: bool, data: st.DataObject
) -> None:
    view, base, array = chain
    axes = data.draw(st.sets(st.sampled_from(range(array.ndim)))) if array.ndim else set()
    found = view.reduced(axes, keepdims)
    if found is None:
        assert view.axis_order() is None
        return
    below, rest = found
    got = read(rest, base.sum(axis=below))
    np.testing.assert_array_equal(got, array.sum(axis=tuple(axes), keepdims=keepdims))


@settings(max_examples=200, deadline=None)
@given(chains())
def test_sums_over_the_last_axis_may_read_it_as_it_lies(chain: tuple) -> None:
    view, base, array = chain
    found = view.sorted_last()
    if found is None:
        return
    as_it_lies, (split, order) = found
    lead = array.shape[:-1]
    moved = array.reshape(*lead, *split).transpose(
        *range(len(lead)), *(len(lead) + i for i in order)
    )
    np.testing.assert_array_equal(read(as_it_lies, base), moved.reshape(array.shape))
    assert as_it_lies.trailing() is not None


def test_a_flattened_image_is_read_as_it_lies() -> None:
    flat = View.of((2, 5, 7, 3)).permute((0, 3, 1, 2)).reshape((2, 105))
    assert flat is not None
    found = flat.sorted_last()
    assert found is not None
    assert found[0].in_order
    assert found[1] == ((3, 5, 7), (1, 2, 0))


def test_the_order_of_axes_is_found_where_some_have_length_one() -> None:
    assert View.of((1, 4, 4, 3)).permute((0, 3, 1, 2)).axis_order() == (0, 3, 1, 2)
    assert View.of((2, 1, 1, 3)).permute((0, 3, 1, 2)).axis_order() == (0, 3, 1, 2)
    assert View.of((6,)).axis_order() == (0,)
    split = View.of((6,)).reshape((2, 3))
    assert split is not None
    assert split.axis_order() is None


def test_reshapes_that_cross_a_permuted_axis_are_refused() -> None:
    turned = View.of((2, 3)).permute((1, 0))
    assert turned.reshape((2, 3)) is None
    assert turned.reshape((3, 2, 1)) is not None
