import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.report.markup import number, size
from codesign.report.scales import scale

positive = st.floats(1e-3, 1e4)


@given(st.lists(positive, min_size=1, max_size=5), st.booleans())
def test_values_lie_between_the_ends_and_ticks_too(values, log):
    axis = scale(values, 10.0, 90.0, log=log)
    assert all(10.0 <= axis(v) <= 90.0 for v in [*values, *axis.ticks()])
    assert len(axis.ticks()) >= 2


def test_order_is_kept_and_logarithms_are_even():
    axis = scale([1.0, 100.0], 0.0, 100.0, log=True)
    assert axis(10.0) == pytest.approx(50.0)
    assert scale([0.0, 1.0], 100.0, 0.0)(0.9) < 50  # a vertical axis grows upwards


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (3.14159, "3.14"), (1234.5, "1,234"), (0.012345, "0.0123"), (-2.5, "-2.50")],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_sizes():
    assert [size(n) for n in (512, 22_600_000)] == ["512 B", "22.6 MB"]
    assert number(None) == "\u2013"
