import pickle

import pytest

from codesign.frozen import FrozenMap, canonical, digest


def test_canonical_text_does_not_depend_on_order_or_list_type():
    assert canonical({"b": (1, 2), "a": {"y": 1, "x": 2}}) == '{"a":{"x":2,"y":1},"b":[1,2]}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("value", "error"), [(float("nan"), ValueError), (object(), TypeError), ({1, 2}, TypeError)]
)
def test_what_json_cannot_say_is_refused(value, error):
    with pytest.raises(error):
        canonical({"x": value})


def test_a_frozen_map_is_a_key_and_equals_plain_mappings():
    frozen = FrozenMap({"keep": 1152, "nested": {"list": [1, 2]}})
    assert frozen == {"nested": {"list": [1, 2]}, "keep": 1152}
    assert frozen != {"keep": 1151}
    assert {frozen: "found"}[FrozenMap({"nested": {"list": [1, 2]}, "keep": 1152})] == "found"
    assert frozen["nested"]["list"] == (1, 2)
    assert canonical(frozen) == '{"keep":1152,"nested":{"list":[1,2]}}'


def test_a_frozen_map_cannot_change():
    frozen = FrozenMap({"a": 1})
    with pytest.raises(TypeError):
        frozen["a"] = 2
    with pytest.raises(TypeError):
        FrozenMap({1: "a"})


def test_a_frozen_map_crosses_processes():
    frozen = FrozenMap({"a": [1, {"b": None}]})
    assert pickle.loads(pickle.dumps(frozen)) == frozen
