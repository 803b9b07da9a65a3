"""The page of what applies where says what the passes say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.applicability import FAMILIES, TARGET, Applies, page, table, verdicts
from benchmarks.models.zoo import PUBLISHED, SMALL
from targets.target import find

PAGE = Path(__file__).parents[2] / "docs" / "applicability.md"


def cells(text: str) -> list[list[str]]:
    """The rows of the table on a page, of each cell "yes" or "no"."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [[row[0], *("yes" if c == "yes" else "no" for c in row[1:])] for row in rows[2:]]


def test_narrow_networks_have_the_families_of_the_page(small: Callable[[str], Any]) -> None:
    """What the narrow networks show in tests is what the published ones are said to have."""
    target = find(TARGET)
    said = {name: verdicts(small(name).subject, target) for name in SMALL}
    assert list(SMALL) == list(PUBLISHED)
    assert cells(table(said)) == cells(PAGE.read_text())


def test_every_family_has_a_row_and_applies_somewhere() -> None:
    found = cells(PAGE.read_text())
    assert [row[0] for row in found] == [family.name for family in FAMILIES]
    assert all(len(row) == 1 + len(PUBLISHED) and "yes" in row[1:] for row in found)


def test_every_refusal_has_a_reason(small: Callable[[str], Any]) -> None:
    for name in SMALL:
        for said in verdicts(small(name).subject, find(TARGET)).values():
            assert isinstance(said, Applies) or len(said.split()) > 3


def test_a_target_without_instructions_says_so(small: Callable[[str], Any]) -> None:
    said = verdicts(small("bert").subject, find("x86-64-v3"))
    assert isinstance(said["vector sparsity"], Applies)
    for family in ("int8, dynamic", "int8, static", "int8 attention", "bfloat16"):
        reason = said[family]
        assert isinstance(reason, str)
        assert reason.startswith("x86-64-v3 has no instruction for")


@pytest.mark.slow
def test_the_page_is_what_the_command_writes() -> None:
    """``python -m benchmarks.applicability --write docs/applicability.md``"""
    assert PAGE.read_text() == page()
