from dataclasses import replace

from codesign.search import changes, veto_slow

LEVELS = (4e-3, 6e-3, 9e-3, 12e-3)


def test_equal_tables_change_nothing(encoder):
    assert changes(encoder(), encoder(), LEVELS, 1) == []


def test_a_corrected_family_says_so(encoder):
    found = changes(encoder(), encoder(int8=8.0), LEVELS, 2)
    assert found
    assert {c.round for c in found} == {2}
    away = [c for c in found if c.before == "int8"]
    assert away
    assert all("int8 causes 8 times the output error" in c.because for c in away)
    assert len({c.group for c in found}) == len(found)


def test_a_veto_is_the_reason(encoder):
    slow = veto_slow(encoder(slow_sparse=True))
    found = [c for c in changes(encoder(int8=4), slow, LEVELS, 1) if c.before == "sparse"]
    assert found
    assert all(c.because.startswith("sparse is vetoed: measured") for c in found)


def test_a_layer_dropped_is_one_change(encoder):
    def cheap_drop(_, option):
        is_first = option.choices and option.choices[0].site == "layer0"
        return replace(option, error=1e-6) if is_first else option

    (found,) = (
        c
        for c in changes(encoder(), encoder().mapped(cheap_drop), (9e-3,), 1)
        if c.group.startswith("layer0")
    )
    assert (found.group, found.before, found.after) == ("layer0", "kept", "drop")
    assert "5e-06 times the output error" in found.because
