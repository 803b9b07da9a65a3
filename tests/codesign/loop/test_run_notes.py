"""Why a run ended, in words."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from codesign.config import Budget
from codesign.loop.run_notes import ending_note


def _rounds(out_of_time, tried, budget):
    config = SimpleNamespace(budget=budget)
    return SimpleNamespace(out_of_time=out_of_time, judged=[None] * tried, config=config)


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        (Budget(minutes=5.0, measurements=9), "5 minutes was over after 4 of 9 candidates"),
        (Budget(minutes=0.5), "0.5 minutes was over after 4 candidates"),
    ],
)
def test_minutes_that_were_over_are_said(budget, says):
    (note,) = ending_note(_rounds(True, 4, budget))
    assert says in note
    assert "the same command" in note


@pytest.mark.parametrize(
    "rounds",
    [
        _rounds(False, 4, Budget(minutes=5.0, measurements=9)),
        _rounds(True, 9, Budget(minutes=5.0, measurements=9)),
        _rounds(False, 4, Budget()),
    ],
)
def test_a_search_that_came_to_its_end_says_nothing(rounds):
    assert ending_note(rounds) == []
