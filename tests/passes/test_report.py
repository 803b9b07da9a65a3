"""Reports add up."""

from __future__ import annotations

from passes.report import Change, Refusal, Report


def test_reports_add_up_under_the_first_name():
    one = Report("sparse", (Change("a", "sparse", "density 0.5"),))
    two = Report("int8", refusals=(Refusal("b", "int8", "too small"),))
    both = one + two
    assert both.pass_name == "sparse"
    assert both.rewrites == one.rewrites
    assert both.refusals == two.refusals
    assert one.modified
    assert not two.modified
