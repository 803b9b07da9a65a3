"""Reading dataclasses from plain data: which error is raised, and numbers that are none."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from targets.errors import CodesignError, TargetError
from targets.schema import dump, load


@dataclass(frozen=True)
class Row:
    size: float
    names: tuple[str, ...] = ()


class OtherError(CodesignError):
    """Of whoever reads."""


def test_the_reader_says_which_error():
    with pytest.raises(TargetError, match="row lacks the key 'size'"):
        load(Row, {}, "row")
    with pytest.raises(OtherError) as caught:
        load(Row, {"size": 1, "name": ()}, "row", error=OtherError)
    assert caught.value.next == "did you mean 'names'?"
    assert load(Row, {"size": 1, "name": ()}, "row", extra=True) == Row(1.0)
    assert dump(Row(1.0, ("a",))) == {"size": 1.0, "names": ["a"]}


@pytest.mark.parametrize("size", [float("inf"), float("nan"), 10**400, True, "1", None])
def test_what_is_no_finite_number(size):
    with pytest.raises(TargetError, match=r"row\.size has a wrong value"):
        load(Row, {"size": size}, "row")
