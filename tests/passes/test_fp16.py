"""Where float16 is offered and what does not fit it; what it shares with bfloat16 is in test_half."""

from __future__ import annotations

import numpy as np
import pytest

from passes.errors import PassError
from passes.fp16 import Fp16, Fp16Config, choices, too_large
from passes.sites import Linear
from passes.solve.gram import Gram
from passes.solve.site import Affine, solve_linear
from passes.solve.values import Values
from targets.target import Target, find

SITE = Linear("fc", "fc.w", "fc.b", 128, 384, 1536)
rng = np.random.default_rng(0)


def values(*rows):
    found = Values(len(rows[0]))
    found.add(np.array(rows, np.float32))
    return found


@pytest.mark.parametrize(
    "target",
    [find("sapphirerapids"), Target("a", "cortex-a76", frozenset({"neon", "fullfp16"}), 128, 32)],
    ids=lambda t: t.name,
)
def test_offered_where_it_is_computed_in(target):
    assert choices(SITE, target) == ([Fp16()], [])


@pytest.mark.parametrize("name", ["znver5", "icelake-server", "x86-64-v3"])
def test_refused_elsewhere_unless_asked_for(name):
    offers, refusals = choices(SITE, find(name))
    assert offers == []
    assert refusals[0].reason.startswith(f"{name} does not compute in float16")
    assert choices(SITE, find(name), Fp16Config(needs_instruction=False)) == ([Fp16()], [])


def test_ordinary_numbers_fit():
    weight = rng.standard_normal((40, 384))
    assert Fp16().unfit(weight, values(rng.standard_normal(384) * 50)) is None
    assert Fp16().unfit(np.zeros((3, 5)), values([0.0] * 5)) is None


@pytest.mark.parametrize(("largest", "fits"), [(65504, True), (65505, False), (-7e4, False)])
def test_weights_end_at_the_largest_float16(largest, fits):
    weight = np.full((2, 3), 1e-3)
    weight[1, 1] = largest
    reason = Fp16().unfit(weight, values([0.0, 0.1, 0.1]))
    assert (reason is None) == (too_large(weight) is None) == fits
    assert fits or ("weights reach" in reason and "65504" in reason)


@pytest.mark.parametrize(("largest", "fits"), [(32752, True), (32753, False), (-4e4, False)])
def test_inputs_end_at_half_of_it_for_other_data_may_have_larger_ones(largest, fits):
    reason = Fp16().unfit(np.full((2, 3), 1e-3), values([0.0, largest, 1.0]))
    assert (reason is None) == fits
    assert fits or ("inputs reach" in reason and "65504" in reason)


def test_sums_of_a_chunk_must_fit_too():
    """64 products of 500 do, of 550 do not; of longer sums each chunk is a sum of its own."""
    for size, fits in ((500, True), (550, False)):
        reason = Fp16().unfit(np.full((1, 640), float(size)), values([-1.0] * 640))
        assert (reason is None) == fits
    assert "sums of 64 products may reach 3.52e+04" in reason


def test_solving_what_does_not_fit_is_an_error_that_says_why():
    weight = rng.standard_normal((8, 40)).astype(np.float32)
    near = Gram(40).add(np.full((2, 40), 4e4) * np.eye(40)[:2])
    assert solve_linear(Affine(weight / 10), near, Fp16()).weight.any()
    gram = Gram(40).add(rng.standard_normal((99, 40)) * 1e5)
    with pytest.raises(PassError, match="does not fit fp16") as caught:
        solve_linear(Affine(weight), gram, Fp16())
    assert "inputs reach" in caught.value.got
