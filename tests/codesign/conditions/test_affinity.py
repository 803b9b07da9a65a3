"""Big and little processors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.conditions.affinity import Cluster, choose, clusters, format, local_clusters, parse
from codesign.errors import UserError

PHONE = {f"cpu{i}": 1.8e6 for i in range(4)} | {f"cpu{i}": 2.4e6 for i in (4, 5, 6)}
PHONE |= {"cpu7": 2.9e6}


def test_three_kinds_by_clock():
    found = clusters(PHONE)
    assert [c.cpus for c in found] == [(0, 1, 2, 3), (4, 5, 6), (7,)]
    assert choose("little", found) == (0, 1, 2, 3)
    assert choose("big", found) == (4, 5, 6, 7)
    assert choose("all", found) == ()
    assert choose("2,5-6", found) == (2, 5, 6)


def test_capacity_counts_before_clocks():
    clocks = {"cpu0": 2.0e6, "cpu1": 2.0e6}
    assert clusters(clocks, {"cpu0": 400, "cpu1": 1024}) == (
        Cluster((0,), 400), Cluster((1,), 1024),
    )  # fmt: skip
    assert len(clusters(clocks, {"cpu0": 400})) == 1  # half told is not told


def test_favoured_cores_are_no_kind_of_their_own():
    assert len(clusters({"cpu0": 5.0e6, "cpu1": 5.2e6, "cpu2": 5.0e6})) == 1


@pytest.mark.parametrize("kinds", [(), (Cluster((0, 1), 1024),)])
@pytest.mark.parametrize("which", ["big", "little"])
def test_nothing_to_choose_from(kinds, which):
    with pytest.raises(UserError, match=f"no {which} processors") as caught:
        choose(which, kinds)
    assert ("alike" in caught.value.got) == bool(kinds)


@pytest.mark.parametrize("text", ["", "4-", "-3", "5-4", "a", "1,,2", "1;2", "99999", "big,1"])
def test_what_is_no_list(text):
    with pytest.raises(UserError, match="could not be read"):
        parse(text)


def test_absent_processors_are_named():
    with pytest.raises(UserError, match="cannot be used") as caught:
        choose("6-9", clusters(PHONE))
    assert caught.value.got == "8-9"
    with pytest.raises(UserError, match="cannot be used"):
        choose("big", clusters(PHONE), available={0, 1, 2, 3})
    assert choose("0-1", (), available=None) == (0, 1)


@given(st.sets(st.integers(0, 200), min_size=1))
def test_lists_come_back(cpus):
    assert parse(format(cpus)) == tuple(sorted(cpus))


@given(st.dictionaries(st.integers(0, 63).map(lambda i: f"cpu{i}"), st.floats(1e5, 6e6)))
def test_every_processor_is_in_one_kind(clocks):
    found = clusters(clocks)
    cpus = [c for kind in found for c in kind.cpus]
    assert sorted(cpus) == sorted(int(name[3:]) for name in clocks)
    assert [k.speed for k in found] == sorted(k.speed for k in found)


def test_from_files(tree):
    root = tree(
        {f"devices/system/cpu/cpu{i}/cpufreq/cpuinfo_max_freq": "2000000" for i in range(4)}
        | {f"devices/system/cpu/cpu{i}/cpu_capacity": str(512 if i < 2 else 1024) for i in range(4)}
    )
    assert [c.cpus for c in local_clusters(root)] == [(0, 1), (2, 3)]
