"""Names of targets: operating systems, features behind a plus, and what a wrong name is answered."""

from __future__ import annotations

import pytest

from targets.errors import TargetError
from targets.features import AARCH64, closed
from targets.target import KNOWN, PLATFORMS, device_of, find


def test_operating_systems_on_any_processor():
    android, linux = find("android-arm64"), find("linux-arm64")
    assert (android.triple, linux.triple) == ("aarch64-linux-android", "aarch64-linux-gnu")
    assert android.features == linux.features == {"neon"}
    assert str(android.tvm().attrs["mtriple"]) == "aarch64-linux-android"
    assert device_of("android-arm64") is None
    assert not set(PLATFORMS) & set(KNOWN)


def test_features_behind_a_name():
    target = find("linux-arm64+fullfp16+dotprod", 3)
    assert target.name == "linux-arm64+dotprod+fullfp16"
    assert (target.threads, target.dot, target.has_fp16) == (3, "sdot", True)
    assert find("linux-arm64+dotprod+fullfp16") == find("linux-arm64+fullfp16+dotprod+dotprod")
    assert find("android-arm64+sve2").features == {"neon", "fullfp16", "sve", "sve2"}
    assert find("pixel-8/little+bf16").features == find("pixel-8").features | {"bf16"}
    assert find("aarch64+i8mm").dot == "usdot"


def test_features_of_x86_reach_the_compiler():
    target = find("x86-64-v3+avxvnni")
    assert target.has_vnni
    assert [str(a) for a in target.tvm().attrs["mattr"]] == ["+avxvnni"]
    assert "mattr" not in find("x86-64-v3").tvm().attrs


@pytest.mark.parametrize(
    ("name", "got", "says"),
    [
        ("android-arm64+dotprd", "dotprd", "did you mean 'dotprod'?"),
        ("android-arm64+", "an empty name", "dotprod"),
        ("android-arm64+avx2", "avx2", "dotprod"),
        ("x86-64-v3+dotprod", "dotprod", "avxvnni"),
        ("pixle-8", "pixle-8", "pixel-8"),
        ("galaxy-s23/gpus", "galaxy-s23/gpus", "galaxy-s23/gpu"),
        ("galaxy-s23/", "galaxy-s23/", "galaxy-s23"),
        ("andoid-arm64+dotprod", "andoid-arm64", "android-arm64"),
        ("", "", "codesign targets lists them"),
        ("a\nb", "a\nb", "codesign targets lists them"),
    ],
)
def test_a_wrong_name_is_answered_with_a_near_one(name, got, says):
    with pytest.raises(TargetError) as caught:
        find(name)
    assert caught.value.got == got
    assert says in str(caught.value)


def test_implied_features_are_closed():
    for name in AARCH64:
        assert closed([name]) >= {name, "neon"}
        assert closed(closed([name])) == closed([name])
    assert closed([]) == {"neon"}
