from codesign.candidate import Choice
from codesign.search import Group, Layer, Option, Tables, solve, veto_slow


def group(*rows):
    options = [
        Option((Choice("g", name),) if name else (), name or "dense", seconds, error)
        for name, seconds, error in rows
    ]
    return Tables((Layer("l", (Group("g", tuple(options)),)),))


def vetoes(tables):
    return [o.veto for o in tables.groups[0].options]


def test_slower_than_dense_is_vetoed_with_both_numbers():
    dense, sparse, int8 = vetoes(
        veto_slow(group(("", 4e-4, 0.0), ("sparse", 4.1e-4, 0.1), ("int8", 1e-4, 0.2)))
    )
    assert dense == int8 == ""
    assert sparse == (
        "measured 410 us, not faster than dense (400 us), which loses no more quality"
    )


def test_a_gain_within_noise_is_no_gain():
    assert vetoes(veto_slow(group(("", 4e-4, 0.0), ("sparse", 3.96e-4, 0.1))))[1]
    assert not vetoes(veto_slow(group(("", 4e-4, 0.0), ("sparse", 3.8e-4, 0.1))))[1]


def test_equal_options_do_not_veto_each_other():
    assert vetoes(veto_slow(group(("", 1e-3, 0.0), ("a", 5e-4, 0.1), ("b", 5e-4, 0.1)))) == [
        "",
        "",
        "measured 500 us, not faster than a (500 us), which loses no more quality",
    ]


def test_a_lossy_option_never_vetoes_a_better_one():
    tables = veto_slow(group(("", 4e-4, 0.0), ("int8", 1e-4, 0.2), ("sparse", 2e-4, 0.1)))
    assert vetoes(tables) == ["", "", ""]


def test_earlier_vetoes_stay_and_do_not_compete():
    tables = group(("", 4e-4, 0.0), ("broken", 1e-5, 0.0), ("int8", 1e-4, 0.2))
    broken = tables.mapped(
        lambda _, o: (
            Option(o.choices, o.family, o.seconds, o.error, "failed to build")
            if o.family == "broken"
            else o
        )
    )
    assert vetoes(veto_slow(broken)) == ["", "failed to build", ""]


def test_what_is_vetoed_is_never_planned(encoder):
    tables = veto_slow(encoder(slow_sparse=True))
    assert all(2 not in plan.picks for plan in solve(tables))
    assert any(2 in plan.picks for plan in solve(veto_slow(encoder())))
