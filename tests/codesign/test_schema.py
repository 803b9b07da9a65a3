from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from codesign.errors import UserError
from codesign.schema import dump, load


@dataclass(frozen=True)
class Inner:
    value: float
    of: str = field(default="x", metadata={"json": "class"})


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    many: tuple[Inner, ...] = ()
    pair: tuple[float, float] | None = None
    table: Mapping[str, int] = field(default_factory=dict)
    free: Any = None


FULL = Outer("n", Inner(1.0, "y"), (Inner(2.0),), (1.0, 2.0), {"a": 1}, {"b": [None]})


def test_round_trip():
    plain = dump(FULL)
    assert plain["inner"] == {"value": 1.0, "class": "y"}
    assert load(Outer, plain, "file") == FULL


def test_whole_numbers_are_numbers_but_booleans_are_not():
    assert load(Inner, {"value": 3}, "file").value == 3.0
    with pytest.raises(UserError, match=r"file\.value"):
        load(Inner, {"value": True}, "file")


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ([], "file has"),
        ({"name": "n"}, "lacks the key 'inner'"),
        ({"name": 1, "inner": {"value": 1}}, "file.name"),
        ({"name": "n", "inner": {"value": float("inf")}}, "file.inner.value"),
        ({"name": "n", "inner": {"value": 1}, "many": [{"value": "x"}]}, "file.many[0].value"),
        ({"name": "n", "inner": {"value": 1}, "pair": [1, 2, 3]}, "file.pair"),
        ({"name": "n", "inner": {"value": 1}, "table": {"a": 1.5}}, "file.table.a"),
        ({"name": "n", "inner": {"value": 1, "klass": 2}}, "file.inner has an unknown key"),
    ],
)
def test_errors_name_the_place(data, where):
    with pytest.raises(UserError) as caught:
        load(Outer, data, "file")
    assert where in caught.value.what


def test_extra_keys_on_request():
    assert load(Inner, {"value": 1, "new": 2}, "file", extra=True) == Inner(1.0)
