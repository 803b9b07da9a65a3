"""The comparison itself: what counts as equal, and what happens where it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from codesign.errors import UserError
from codesign.frontend.foreign import Foreign
from codesign.frontend.parity import check_parity, compare
from passes.model import Model


def test_the_error_is_relative_to_the_scale_of_each_output() -> None:
    big, small = np.array([1000.0, -2000.0]), np.array([0.1, 0.2])
    parity = compare([big + 0.1, small + 1e-6], [big, small], 1e-4, "it")
    assert parity.max_abs_error == pytest.approx(0.1)
    assert parity.relative == pytest.approx(0.1 / 2000)
    assert parity.holds
    assert not compare([big, small + 1e-3], [big, small], 1e-4, "it").holds


def test_nan_must_stand_at_the_same_place() -> None:
    theirs = np.array([1.0, np.nan])
    assert compare([theirs], [theirs], 1e-4, "it").holds
    assert not compare([np.array([1.0, 1.0])], [theirs], 1e-4, "it").holds
    assert not compare([np.ones(3)], [np.ones((3, 1))], 1e-4, "it").holds
    infinite = np.array([np.inf, 2.0])
    assert compare([infinite], [infinite], 1e-4, "it").max_abs_error == 0


@pytest.fixture
def dense(encoder: Callable) -> Model:
    return encoder(layers=1, seq=5, width=8, heads=2, hidden=12).model


def test_a_wrong_import_is_refused(dense: Model) -> None:
    wrong = Foreign(dense, "PyTorch", lambda feeds: [np.zeros(dense.outputs[0].shape)])
    with pytest.raises(UserError, match="does not compute what PyTorch does"):
        check_parity(wrong)


def test_an_original_that_fails_is_the_users_error(dense: Model) -> None:
    def fails(feeds: object) -> list[np.ndarray]:
        raise ValueError("shape mismatch")

    with pytest.raises(UserError, match="PyTorch cannot run") as raised:
        check_parity(Foreign(dense, "PyTorch", fails))
    assert "shape mismatch" in raised.value.got


def test_the_canonical_encoder_holds(encoder: Callable) -> None:
    made = encoder(layers=1, seq=5, width=8, heads=2, hidden=12)
    foreign = Foreign(made.model, "NumPy", lambda feeds: [made.reference(feeds)])
    model = replace(made.model, name="ids are drawn below the table's length")
    parity = check_parity(replace(foreign, model=model))
    assert parity.relative < 1e-5
