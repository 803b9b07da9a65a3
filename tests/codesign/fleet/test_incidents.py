"""The diary of a run: what is kept of incidents, what is told, what the report gets."""

from __future__ import annotations

import json

import pytest

from codesign.fleet.incidents import Diary


def test_incidents_are_kept_told_and_summed():
    now, told = [100.0], []
    diary = Diary(told.append, lambda: now[0])
    now[0] = 112.5
    diary.note("phone", "no session: gone\nTraceback\n  and more", 1.5, "tried again")
    diary.note("board", "it works again", 2.25, "taken back")
    first, second = diary.incidents
    assert (first.at, first.device, first.what) == (12.5, "phone", "no session: gone")
    assert second.then == "taken back"
    assert diary.lost == 3.75
    assert told == [str(first), str(second)]
    assert told[0] == "phone: no session: gone; tried again (1.5 s lost)"


@pytest.mark.parametrize(
    ("what", "kept"), [("", ""), ("  \n ", ""), ("\n\nsecond", "second"), ("x" * 400, "x" * 300)]
)
def test_only_the_first_line_is_kept_and_it_is_bounded(what, kept):
    diary = Diary()
    diary.note("phone", what, 0.0, "")
    assert diary.incidents[0].what == kept


def test_the_longest_wait_has_its_name():
    diary = Diary()
    for seconds, what in ((1.0, "a session"), (3.0, "time_kernel"), (2.0, "a device")):
        diary.waited(seconds, what)
    assert (diary.longest_wait, diary.longest_wait_for) == (3.0, "time_kernel")


def test_its_json_says_all_of_it():
    diary = Diary(now=lambda: 5.0)
    diary.note("phone", "slow", 0.5, "tried again")
    diary.waited(4.0, "a device")
    assert json.loads(json.dumps(diary.to_json())) == {
        "incidents": [
            {"at": 0.0, "device": "phone", "what": "slow", "lost": 0.5, "then": "tried again"}
        ],
        "seconds_lost": 0.5,
        "longest_wait_seconds": 4.0,
        "longest_wait_for": "a device",
    }


def test_a_quiet_run_lost_nothing():
    assert Diary().to_json() == {
        "incidents": [],
        "seconds_lost": 0,
        "longest_wait_seconds": 0.0,
        "longest_wait_for": "",
    }
